/* A stub of libnvidia-ml.so.1 with two GPUs, the second of which tells nothing, for the real pynvml.
 * Names and layouts are those of NVIDIA's nvml.h (NVML API reference). */
#include <stdint.h>
#include <stdio.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    snprintf(name, length, "Stub GPU %d", (int)(uintptr_t)device - 1);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    if (device == (void *)2) return GPU_IS_LOST;
    memory->total = 8ULL << 30;
    memory->used = 3ULL << 30;
    memory->free = 5ULL << 30;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    if (device == (void *)2) return NOT_SUPPORTED;
    rates->gpu = 25;
    rates->memory = 10;
    return SUCCESS;
}
