"""Why a notebook did not run to its end: for want of the network or a GPU, or because something is wrong."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

Kind = Literal[
    "ran",
    "network",  # a download failed
    "gpu",  # it wants a GPU, or more of them, or more of its memory
    "environment",  # a package is missing or does not fit the others
    "timeout",  # not finished within the time limit
    "error",  # anything else
    "empty",  # the file holds nothing: no notebook
]

_NETWORK = frozenset(
    {
        *("URLError", "HTTPError", "ConnectionError", "ConnectionRefusedError", "ConnectionResetError", "gaierror"),
        *("ConnectTimeout", "ReadTimeout", "Timeout", "ProxyError", "SSLError", "MaxRetryError", "RemoteDisconnected"),
        *("NameResolutionError", "IncompleteRead", "ChunkedEncodingError"),
    }
)
# In what torchvision and others say that wrap one of these.
_DOWNLOAD = re.compile(r"urlopen error|Max retries exceeded|Error downloading|HTTP Error \d{3}|NameResolutionError")
_ENVIRONMENT = re.compile(
    r"no kernel image is available|may indicate binary incompatibility|compiled using NumPy 1|_ARRAY_API not found"
    r"|operator torchvision::\w+ does not exist|^AttributeError: (partially initialized )?module '"
)
_GPU = re.compile(r"CUDA|NVIDIA driver|cuda:\d|device ordinal|HIP error|MPS backend", re.IGNORECASE)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of running one notebook."""

    notebook: str  # relative to the folder of notebooks, with "/", without ".ipynb"
    kind: Kind
    seconds: float
    cells: int = 0  # code cells
    cell: int | None = None  # which of them failed, from 1
    error: str = ""  # "ModuleNotFoundError: No module named 'gym'"

    @property
    def wrong(self) -> bool:
        """Something is wrong, other than that there is no network or GPU."""
        return self.kind in ("environment", "timeout", "error")

    @property
    def why(self) -> str:
        """The error and where, in one line."""
        line = self.error if len(self.error) <= 160 else self.error[:157] + "..."
        return f"code cell {self.cell}: {line}" if self.cell else line

    def to_json(self) -> dict[str, object]:
        """This outcome as JSON data."""
        data: dict[str, object] = msgspec.to_builtins(self)
        return data


def classify(result: dict[str, Any]) -> tuple[Kind, str]:
    """The kind of a result of ``runner.py``, and its error's line that says most."""
    status, error, traceback = result["status"], str(result["error"]), str(result["traceback"])
    if status in ("ran", "timeout"):
        return status, "" if status == "ran" else "not finished within the time limit"
    name = error.partition(":")[0].rpartition(".")[2]
    lines = [line.strip() for line in error.splitlines() if line.strip()] or [status]
    line = lines[0]
    if name in ("ModuleNotFoundError", "ImportError") or _ENVIRONMENT.search(error):
        return "environment", line
    # Libraries wrap what urllib, requests or the socket said: look at the whole traceback for that.
    if name in _NETWORK or _DOWNLOAD.search(error) or _DOWNLOAD.search(traceback):
        return "network", line
    # The course takes the second of d2l.try_all_gpus() without looking.
    if _GPU.search(error) or (name == "IndexError" and "gpu" in traceback):
        return "gpu", line
    return "error", line
