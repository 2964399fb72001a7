"""What is asked for, and what is planned."""

from __future__ import annotations

from typing import Literal

import msgspec

Manager = Literal["uv", "conda", "colab"]
Edition = Literal["zh", "en"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks for; the defaults ask dlenv to choose."""

    manager: Manager | None = None  # None: in place on Colab and Kaggle, else uv
    python: str | None = None  # "3.12"
    torch: str | None = None  # "2.14.1"
    build: str | None = None  # "cpu", "cu126", "mps", "rocm7.2", "xpu"
    gpus: tuple[int, ...] | None = None  # NVML indices; None: every GPU, (): none
    strict_cuda: bool = False  # the highest CUDA not above the driver's, then the newest torch built for it
    course: Edition | None = "zh"
    extras: tuple[str, ...] = ()  # of dlenv itself: ("serve",)
    # In place (Colab, Kaggle): what is installed there, with the local part ("2.11.0+cu128"); None: not installed.
    # A plan is made without looking, so whoever calls for one looks.
    installed_torch: str | None = None
    installed_torchvision: str | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One build of PyTorch that runs on the machine."""

    torch: str  # "2.14.1", without the local part
    torchvision: str
    build: str  # its flavour: "cu126", "cpu", "mps", "rocm7.2", "xpu"
    index: str | None  # address of the wheel index, None: the package index's own wheel
    wheel_mib: int | None = None  # what is to be downloaded with everything that it depends on, about
    installed_mib: int | None = None  # what it takes on the disk with everything that it depends on, about


class Repacked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pure-Python package of which there is only a source distribution that no installer takes."""

    name: str  # of the distribution and of its one package
    version: str
    sha256: str  # of the source distribution
    requires: tuple[str, ...]  # what it needs, which its own metadata can't tell
    use: str  # what needs it, for people: "some notebooks import"

    @property
    def local(self) -> str:
        """The version that its wheel has: a local one (PEP 440), so that it is never taken for the index's."""
        return f"{self.version}+dlenv"

    @property
    def requirement(self) -> str:
        """The requirement that only its wheel fulfils."""
        return f"{self.name}=={self.local}"


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """The course's package and notebooks."""

    edition: Edition
    package: str  # "d2l==0.17.6"
    notebooks: str  # address of the official archive
    repacked: tuple[Repacked, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The environment to build, and every reason for it."""

    manager: Manager
    python: str  # "3.11"
    torch: Candidate
    # Other candidates that run on this machine, in the order to be tried. With an index: for when that index answers
    # and lacks ``torch``, which was only announced. Without: the package index's own wheel, for when none answers.
    fallbacks: tuple[Candidate, ...] = ()
    # Requirements beside torch and torchvision: the course's package and the scientific stack that it is proven with.
    packages: tuple[str, ...] = ()
    # Requirements that replace what packages declare about the same names: d2l pins versions from 2021.
    overrides: tuple[str, ...] = ()
    course: Course | None = None
    extras: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()  # NVML indices of the GPUs that the build must run on
    # What the proof computes on beside the CPU, as PyTorch names it: a "cuda:N" for each of ``gpus`` or each of AMD's
    # GPUs that the build has code for, or "mps".
    devices: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()  # one sentence for each decision
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The ``plan`` object of ``dlenv setup --dry-run --json``."""
        data: dict[str, object] = msgspec.to_builtins(self)
        torch = self.torch
        data["torch"] = {"version": torch.torch, "build": torch.build, "index": torch.index}
        data["torchvision"] = {"version": torch.torchvision}
        del data["reasons"], data["warnings"]
        return data
