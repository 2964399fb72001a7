"""The services that are compared, and how each is installed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import msgspec

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parents[2] / ".bench"


class Failed(Exception):
    """A service that can't be installed or started, with the reason."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the tables.

    ``command`` is run in ``peers/``; in it and in ``variables`` ``{python}``, ``{bin}``, ``{libraries}`` (where
    libpython is), ``{port}`` and ``{scratch}`` are filled in.
    """

    name: str
    what: str  # for the report: versions apart, how it is set up
    packages: tuple[str, ...]  # whose versions matter
    command: tuple[str, ...]
    wire: str  # a key of loads.WIRES
    path: str
    requirements: str | None = None  # peers/<requirements>.txt; None: dlenv's own environment
    variables: tuple[tuple[str, str], ...] = ()
    stop: signal.Signals = signal.SIGINT
    engine: str = "eager"
    overload: bool = False  # it has a limit to its queue that an overload can meet

    @property
    def folder(self) -> Path | None:
        return ENVIRONMENTS / self.requirements if self.requirements else None

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python" if self.folder else Path(sys.executable)


# Queues as long as mosec's are by default: an overload shall fill them before the load generator runs out of sockets.
DLENV = ("{python}", "-m", "dlenv", "serve", "--log-level", "warning", "--port", "{port}", "--max-queue-rows", "1024")
MODEL = "mnist-lenet"
INFER = f"/v2/models/{MODEL}/infer"
MOSEC = ("{python}", "mosec_server.py", "--address", "127.0.0.1", "--port", "{port}", "--log-level", "error")
ONNX = ("LENET_ENGINE", "onnx")
# Its backend is a program of its own, linked to libpython: to this Python's, not to the system's.
TRITON = (("LD_LIBRARY_PATH", "{libraries}"), ("PYTRITON_HOME", "{scratch}"))

SERVICES = (
    Service(
        name="dlenv ray",
        what="`dlenv serve`: Ray Serve, one replica, the short way in; its defaults, but 1,024 images may wait",
        packages=("dlenv", "torch", "ray"),
        command=(*DLENV, "--runtime", "ray", "--engine", "eager", MODEL),
        wire="oip",
        path=INFER,
        overload=True,
    ),
    Service(
        name="dlenv ray onnx",
        what="the same with ONNX Runtime, which it takes by itself where that is faster",
        packages=("dlenv", "onnxruntime", "ray"),
        command=(*DLENV, "--runtime", "ray", "--engine", "onnx", MODEL),
        wire="oip",
        path=INFER,
        engine="onnx",
        overload=True,
    ),
    Service(
        name="dlenv local",
        what="`dlenv serve --runtime local`: one process; as above",
        packages=("dlenv", "torch", "uvicorn"),
        command=(*DLENV, "--runtime", "local", "--engine", "eager", MODEL),
        wire="oip",
        path=INFER,
        overload=True,
    ),
    Service(
        name="dlenv fronts",
        what="`--runtime local --fronts 1`: a process that reads HTTP before the one that runs the model",
        packages=("dlenv", "torch", "uvicorn"),
        command=(*DLENV, "--runtime", "local", "--fronts", "1", "--engine", "eager", MODEL),
        wire="oip",
        path=INFER,
        overload=True,
    ),
    Service(
        name="dlenv fronts onnx",
        what="the same with ONNX Runtime",
        packages=("dlenv", "onnxruntime", "uvicorn"),
        command=(*DLENV, "--runtime", "local", "--fronts", "1", "--engine", "onnx", MODEL),
        wire="oip",
        path=INFER,
        engine="onnx",
    ),
    Service(
        name="uvicorn",
        what="uvicorn alone with a batcher in the process, no limits and no checks",
        packages=("uvicorn", "uvloop", "httptools"),
        command=("{python}", "uvicorn_server.py", "{port}"),
        wire="raw",
        path="/",
    ),
    Service(
        name="mosec",
        what="mosec: one worker process, batch wait 1 ms (its least; 10 ms by default), 1,024 requests may wait",
        packages=("mosec",),
        command=MOSEC,
        wire="raw",
        path="/inference",
        requirements="mosec",
        overload=True,
    ),
    Service(
        name="mosec onnx",
        what="the same with ONNX Runtime",
        packages=("mosec", "onnxruntime"),
        command=MOSEC,
        wire="raw",
        path="/inference",
        requirements="mosec",
        variables=(ONNX,),
        engine="onnx",
    ),
    Service(
        name="mosec plain",
        what="the same with plain eager PyTorch: no choice of memory format, batch or allocator, as most people run it",
        packages=("mosec",),
        command=MOSEC,
        wire="raw",
        path="/inference",
        requirements="mosec",
        variables=(("LENET_ENGINE", "plain"),),
    ),
    Service(
        name="triton",
        what="Triton Inference Server by nvidia-pytriton: no batch delay, eager PyTorch in its Python callable",
        packages=("nvidia-pytriton",),
        command=("{python}", "triton_server.py", "{port}"),
        wire="triton",
        path=INFER,
        requirements="triton",
        variables=TRITON,
    ),
    Service(
        name="triton onnx",
        what="the same with ONNX Runtime",
        packages=("nvidia-pytriton", "onnxruntime"),
        command=("{python}", "triton_server.py", "{port}"),
        wire="triton",
        path=INFER,
        requirements="triton",
        variables=(*TRITON, ONNX),
        engine="onnx",
    ),
    Service(
        name="litserve",
        what="LitServe: one API process, one worker, `batch_timeout=0`",
        packages=("litserve",),
        command=("{python}", "litserve_server.py", "{port}"),
        wire="litserve",
        path="/predict",
        requirements="litserve",
    ),
    Service(
        name="bentoml",
        what="BentoML: one worker, adaptive batching, access log and metrics off",
        packages=("bentoml",),
        command=("{bin}/bentoml", "serve", "bentoml_server:Lenet", "--host", "127.0.0.1", "--port", "{port}"),
        wire="bentoml",
        path="/predict",
        requirements="bentoml",
        variables=(("BENTOML_DO_NOT_TRACK", "True"),),
    ),
    Service(
        name="ray serve",
        what="Ray Serve as people write it: `serve run`, `@serve.batch`, the default proxy",
        packages=("ray",),
        command=("{bin}/serve", "run", "{scratch}/serve.json"),
        wire="raw",
        path="/",
        variables=(("RAY_TMPDIR", "{scratch}"),),
    ),
)


def install(service: Service) -> None:
    """Make the service's environment: its pinned packages, and after them what dlenv's own environment has (PyTorch).

    Raises ``Failed`` with what uv said.
    """
    if service.requirements is None or service.folder is None:
        return
    pins = PEERS / f"{service.requirements}.txt"
    done = service.folder / "installed.txt"
    if done.exists() and done.read_bytes() == pins.read_bytes():
        return
    uv = Path(sys.executable).parent / "uv"
    _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, service.folder)
    _run(uv, "pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--python", service.python, "-r", pins)
    site = Path(_output(service.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    # Named so that it is read last; addsitedir also follows the file by which dlenv itself is installed editable.
    (site / "zz_dlenv.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    (ENVIRONMENTS / ".gitignore").write_text("*\n")
    shutil.copyfile(pins, done)


def version(service: Service, package: str) -> str:
    return _output(service.python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))")


def _run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"`{Path(str(command[0])).name} {command[1]}` failed: {done.stderr.strip()[-300:]}")


def _output(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
