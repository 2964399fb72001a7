/* A stub of NVIDIA's libnvidia-ml.so.1 for the real pynvml; environment variables say what machine it makes up.
 * Names and layouts are those of NVIDIA's nvml.h (NVML API reference).
 *
 *   STUB_NVML_DRIVER=550.54.14   STUB_NVML_CUDA=12040   STUB_NVML_GPUS=2   STUB_NVML_PROCESS_4711=python
 *
 * and for each GPU, counted from 0; what is not set is not supported:
 *
 *   STUB_NVML_0_NAME  _UUID  _CAPABILITY=8.9  _MEMORY_MIB  _USED_MIB  _COMPUTE_MODE=3
 *   STUB_NVML_0_MIG=2 (instances; their second place is empty. Or "off")  _UTILIZATION=25
 *   STUB_NVML_0_COMPUTE=4711:512,4712:- (processes: id, MiB or unknown)  _GRAPHICS
 *
 * What a function does instead of answering, for every GPU or for one of them:
 *
 *   STUB_NVML_nvmlDeviceGetName=15 (an error's number)  =hang  =crash  =chatter (print rubbish, then answer)
 *   STUB_NVML_1_nvmlDeviceGetName=15
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } process_t;

static const char *setting(const char *name) {
    char variable[128];
    snprintf(variable, sizeof variable, "STUB_NVML_%s", name);
    return getenv(variable);
}

static const char *of_gpu(void *device, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "%d_%s", (int)(uintptr_t)device - 1, name);
    return setting(full);
}

static int act(const char *what) {
    if (!what) return SUCCESS;
    if (!strcmp(what, "hang")) {
        signal(SIGTERM, SIG_IGN);
        for (;;) pause();
    }
    if (!strcmp(what, "crash")) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (!strcmp(what, "chatter")) {
        printf("{\"code\": 18}\nrubbish \xff\n");
        fflush(stdout);
        return SUCCESS;
    }
    return atoi(what);
}

#define ANSWER_FOR(device) do { \
        int code = act(of_gpu(device, __func__)); \
        if (!code) code = act(setting(__func__)); \
        if (code) return code; \
    } while (0)
#define ANSWER do { int code = act(setting(__func__)); if (code) return code; } while (0)

static int string(const char *value, char *out, unsigned int length) {
    if (!value) return NOT_SUPPORTED;
    if (strlen(value) >= length) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static int number(const char *value, unsigned int *out) {
    if (!value) return NOT_SUPPORTED;
    *out = (unsigned int)atoi(value);
    return SUCCESS;
}

static int processes(const char *list, unsigned int *room, process_t *out) {
    if (!list) return NOT_SUPPORTED;
    unsigned int count = 0;
    for (const char *at = list; *at; count++) {
        char *end;
        unsigned int pid = (unsigned int)strtoul(at, &end, 10);
        const char *memory = end + 1;
        if (out && count < *room)
            out[count] = (process_t){pid, *memory == '-' ? ~0ULL : strtoull(memory, NULL, 10) << 20, ~0U, ~0U};
        const char *comma = strchr(memory, ',');
        at = comma ? comma + 1 : memory + strlen(memory);
    }
    int enough = count <= *room;
    *room = count;
    return enough ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; ANSWER; return SUCCESS; }
int nvmlShutdown(void) { ANSWER; return SUCCESS; }

const char *nvmlErrorString(int code) {
    static char text[40];
    snprintf(text, sizeof text, "Stub error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *out, unsigned int length) { ANSWER; return string(setting("DRIVER"), out, length); }
int nvmlSystemGetCudaDriverVersion(unsigned int *out) { ANSWER; return number(setting("CUDA"), out); }
int nvmlSystemGetCudaDriverVersion_v2(unsigned int *out) { ANSWER; return number(setting("CUDA"), out); }

int nvmlSystemGetProcessName(unsigned int pid, char *out, unsigned int length) {
    ANSWER;
    char name[32];
    snprintf(name, sizeof name, "PROCESS_%u", pid);
    return setting(name) ? string(setting(name), out, length) : NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned int *out) {
    ANSWER;
    return setting("GPUS") ? number(setting("GPUS"), out) : (*out = 0, SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **out) {
    *out = (void *)(uintptr_t)(index + 1);
    ANSWER_FOR(*out);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *out, unsigned int length) {
    ANSWER_FOR(device);
    return string(of_gpu(device, "NAME"), out, length);
}

int nvmlDeviceGetUUID(void *device, char *out, unsigned int length) {
    ANSWER_FOR(device);
    return string(of_gpu(device, "UUID"), out, length);
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    ANSWER_FOR(device);
    const char *value = of_gpu(device, "CAPABILITY");
    return value && sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
    ANSWER_FOR(device);
    const char *total = of_gpu(device, "MEMORY_MIB"), *used = of_gpu(device, "USED_MIB");
    if (!total) return NOT_SUPPORTED;
    out->total = strtoull(total, NULL, 10) << 20;
    out->used = used ? strtoull(used, NULL, 10) << 20 : 0;
    out->free = out->total - out->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *out) {
    ANSWER_FOR(device);
    out->memory = 0;
    return number(of_gpu(device, "UTILIZATION"), &out->gpu);
}

int nvmlDeviceGetComputeMode(void *device, unsigned int *out) {
    ANSWER_FOR(device);
    return number(of_gpu(device, "COMPUTE_MODE"), out);
}

int nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
    ANSWER_FOR(device);
    const char *value = of_gpu(device, "MIG");
    if (!value) return NOT_SUPPORTED;
    *current = *pending = strcmp(value, "off") != 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned int *out) {
    ANSWER_FOR(device);
    *out = 7; /* of an A100 or H100 */
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **out) {
    ANSWER_FOR(device);
    const char *value = of_gpu(device, "MIG");
    unsigned int instances = value ? (unsigned int)atoi(value) : 0;
    unsigned int before = index > 1 ? index - 1 : index; /* instances in the places before this one */
    if (index == 1 || before >= instances) return NOT_FOUND;
    *out = device;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *room, process_t *out) {
    ANSWER_FOR(device);
    return processes(of_gpu(device, "COMPUTE"), room, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *room, process_t *out) {
    ANSWER_FOR(device);
    return processes(of_gpu(device, "GRAPHICS"), room, out);
}
