"""Where an environment's parts come from: resolved mirrors, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from dlenv.catalog.mirrors import Mirror
from dlenv.plan.model import Candidate


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where packages come from in one attempt."""

    candidate: Candidate
    torch_index: str | None = None  # address of the index or listing of PyTorch's wheels; None: the package index
    # The local part that the versions of its torch and torchvision have ("cu126"); None: they may have none.
    local: str | None = None
    flat: bool = False  # a listing of files (pip's --find-links), not a PEP 503 index
    folder: Path | None = None  # a folder of wheels, the only place to look into
    environment: Mapping[str, str] = {}  # uv's variables for the package index, such as UV_DEFAULT_INDEX
    label: str = "the package index"  # for people
    pypi: Mirror | None = None  # the package index, where one was chosen


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a build may be taken from, each tuple in the order to be tried."""

    packages: tuple[Source, ...]
    python: tuple[Mapping[str, str], ...] = ({},)  # uv's variables for downloading an interpreter
    conda: tuple[str, ...] = ()  # addresses of the channel conda-forge, for conda environments
    notes: tuple[str, ...] = ()  # what was chosen and what did not answer, for people
    pypi: Mirror | None = None  # the package index that was chosen: the first to be tried; None: offline
    platform: str = ""  # what an interpreter has to be made for, in uv's words; "": whatever it takes
