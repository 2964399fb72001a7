"""Everything that the planner goes by."""

from __future__ import annotations

from functools import cache

import msgspec

from dlenv.catalog.courses import Recipe, courses
from dlenv.catalog.cuda import Cuda, cuda
from dlenv.catalog.torch import Build, Own, facts, spread
from dlenv.plan.model import Edition


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """PyTorch's builds, what NVIDIA's drivers run, and what the courses need."""

    builds: tuple[Build, ...]  # the newest torch first
    cuda: Cuda
    own: Own
    courses: dict[Edition, Recipe]
    package_index: str
    wheel_index: str  # {build} is to be replaced


@cache
def contents() -> Catalog:
    """The catalog that ships with dlenv."""
    torch = facts()
    return Catalog(
        builds=spread(torch),
        cuda=cuda(),
        own=torch.own,
        courses=courses(),
        package_index=torch.package_index,
        wheel_index=torch.wheel_index,
    )
