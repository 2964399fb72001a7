"""What NVML says about driver and GPUs, asked in a child process with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from dlenv.machine.model import Gpu, Nvml, NvmlStatus

_CHILD = Path(__file__).with_name("nvml_child.py")

# nvmlReturn_t, NVML API reference; the rest is "failed".
_STATUS: dict[int, NvmlStatus] = {
    4: "no-permission",
    9: "driver-not-loaded",
    12: "library-missing",
    15: "gpu-lost",
    17: "blocked",
    18: "mismatch",
    28: "no-gpu",
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """NVML's answer; after a hang or a crash what was told before it."""

    nvml: Nvml
    driver: str | None = None
    cuda_driver: str | None = None
    gpus: tuple[Gpu, ...] = ()


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of what the child prints."""

    driver: str | None = None
    cuda_driver: str | None = None
    gpu: Gpu | None = None
    code: int = 0
    detail: str = ""


def ask(environ: Mapping[str, str], timeout: float = 10) -> Answer:
    """NVML's answer within ``timeout`` seconds, and one more where its process won't die; never raises.

    ``environ`` is the child's: NVML's library is found through it (``LD_LIBRARY_PATH``).
    """
    spec = find_spec("pynvml")
    if spec is None or spec.origin is None:
        return Answer(nvml=Nvml(status="failed", detail="the package nvidia-ml-py is not installed"))
    folder = Path(spec.origin).parents[1 if spec.submodule_search_locations else 0]
    try:
        # -I and -S: neither the user's settings nor site-packages, whose .pth files may take long to work through.
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", _CHILD, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Answer(nvml=Nvml(status="failed", detail=f"{sys.executable} can't be run ({error})"))
    try:
        output, talk = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        output = _end(child)
        return _answer(output, Nvml(status="timeout", detail=f"no answer within {timeout:g} s"))
    except BaseException:
        _end(child)
        raise
    return _answer(output, _fate(child.returncode, talk))


def _end(child: subprocess.Popen[bytes]) -> bytes:
    """Kill the child and what it started (NVML may call nvidia-modprobe); what it had printed by then."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            child.kill()
    else:
        child.kill()
    try:
        return child.communicate(timeout=1)[0]
    except subprocess.TimeoutExpired as error:
        # It waits for a driver that does not answer, where no signal reaches it, or has left its pipes to others:
        # leave it to the system.
        for pipe in filter(None, (child.stdout, child.stderr)):
            pipe.close()
        child.poll()
        return error.output or b""


def _fate(returncode: int, talk: bytes) -> Nvml | None:
    """What became of a child that ended by itself; None where it ended well."""
    if returncode == 0:
        return None
    last = talk.decode(errors="replace").strip().rpartition("\n")[2]
    if returncode == 1:  # a Python exception
        return Nvml(status="failed", detail=last)
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # Windows: a status such as 0xC0000005
        name = f"status {returncode:#x}"
    return Nvml(status="crashed", detail=f"the process that asked NVML died ({name})")


def _answer(output: bytes, fate: Nvml | None) -> Answer:
    """The child's lines together; those that can't be read are left out."""
    lines = []
    for line in output.splitlines():
        try:
            lines.append(msgspec.json.decode(line, type=_Line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    gpus = [line for line in lines if line.gpu]
    failure = next((line for line in lines if line.code and not line.gpu), None)
    if failure is None and gpus and all(line.code for line in gpus):
        failure = gpus[0]
    if fate is None and failure:
        detail = failure.gpu.problem or "" if failure.gpu else failure.detail
        fate = Nvml(status=_STATUS.get(failure.code, "failed"), detail=detail)
    if fate is None and not lines:
        fate = Nvml(status="failed", detail="NVML was asked and nothing came back")
    return Answer(
        nvml=fate or Nvml(status="ok" if gpus else "no-gpu"),
        driver=next((line.driver for line in lines if line.driver), None),
        cuda_driver=next((line.cuda_driver for line in lines if line.cuda_driver), None),
        gpus=tuple(line.gpu for line in gpus if line.gpu),
    )
