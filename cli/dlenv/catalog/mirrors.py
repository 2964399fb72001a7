"""Where downloads can be had: the official places and their mirrors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from dlenv.catalog import read
from dlenv.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["pypi", "pytorch", "conda", "python"]
# Names a file that is laid over the catalog: the mirrors of an institution, or of a test.
VARIABLE = "DLENV_MIRRORS"


class Mirror(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that has one kind of download."""

    name: str
    url: str  # without a slash at the end, unless it is a listing; "{build}" is for `for_build`
    layout: Literal["index", "flat"] = "index"  # PEP 503, or a listing of files
    official: bool = False  # the publisher's own
    implied: bool = False  # what the tools use unless they are told otherwise
    note: str = ""  # how complete it is
    source: str = ""
    date: str = ""
    # Filled in when it is read: the kind; and the variable or file by which the user has named it.
    kind: Kind = "pypi"
    origin: str | None = None
    environ: dict[str, str] | None = None

    def for_build(self, build: str) -> Mirror:
        """The place of one flavour of PyTorch's builds, such as "cu126"."""
        return msgspec.structs.replace(self, url=self.url.replace("{build}", build))

    def environment(self) -> dict[str, str]:
        """Variables that make uv and pip use it; empty where they do so by themselves, or are told by arguments."""
        if self.environ is not None:
            return self.environ
        if self.implied:
            return {}
        if self.kind == "pypi":
            return {"UV_DEFAULT_INDEX": self.url, "PIP_INDEX_URL": self.url}
        return {"UV_PYTHON_INSTALL_MIRROR": self.url} if self.kind == "python" else {}


class _Catalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    replace: bool = False  # whether the rows of a kind replace the catalog's, or are laid over them by name
    pypi: tuple[Mirror, ...] = ()
    pytorch: tuple[Mirror, ...] = ()
    conda: tuple[Mirror, ...] = ()
    python: tuple[Mirror, ...] = ()

    def rows(self, kind: Kind) -> tuple[Mirror, ...]:
        rows: tuple[Mirror, ...] = getattr(self, kind)
        return rows


def mirrors(kind: Kind) -> tuple[Mirror, ...]:
    """Every mirror of one kind, the official place last.

    The file that ``$DLENV_MIRRORS`` names has the catalog's form: a row replaces the catalog's of that name or is
    added before it; with ``replace = true`` only its rows count, for the kinds that it has rows of.

    Raises ``UsageError`` where that file can't be used.
    """
    rows = read("mirrors", _Catalog).rows(kind)
    if given := os.environ.get(VARIABLE):
        own = _own(Path(given))
        new = own.rows(kind)
        names = {mirror.name for mirror in new}
        if not (own.replace and new):
            new += tuple(mirror for mirror in rows if mirror.name not in names)
        rows = new
    ordered = sorted(rows, key=lambda mirror: mirror.official)
    return tuple(msgspec.structs.replace(mirror, kind=kind) for mirror in ordered)


def all_names() -> list[str]:
    """The name of every mirror of any kind, without the official one."""
    kinds: tuple[Kind, ...] = ("pypi", "pytorch", "conda", "python")
    return sorted({mirror.name for kind in kinds for mirror in mirrors(kind) if not mirror.official})


def _own(path: Path) -> _Catalog:
    try:
        return msgspec.convert(tomllib.loads(path.expanduser().read_text(encoding="utf-8")), _Catalog)
    except OSError as error:
        raise UsageError(f"{VARIABLE} names {path}, which can't be read ({error.strerror})") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(f"{VARIABLE} names {path}, which is no list of mirrors: {error}") from None
