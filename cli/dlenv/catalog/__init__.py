"""Facts as data: TOML files beside this module, each row with its source and date, read into frozen structures."""

from __future__ import annotations

import sys
from importlib import resources
from typing import TYPE_CHECKING, TypeVar

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from dlenv.catalog.contents import Catalog

_T = TypeVar("_T")
# What pip and uv use unless they are told otherwise; the catalog's files say {package_index} for it.
PACKAGE_INDEX = f"https://{'.'.join(('pypi', 'org'))}/simple"


def read(name: str, kind: type[_T]) -> _T:
    """The file ``<name>.toml`` of the catalog as ``kind``; raises ``msgspec.ValidationError`` naming what is wrong."""
    text = resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text.replace("{package_index}", PACKAGE_INDEX)), kind)


def load() -> Catalog:
    """Everything that the planner goes by; read once."""
    from dlenv.catalog.contents import contents

    return contents()
