"""Where a planned environment is taken from: mirrors that answer, and what to do where PyTorch's index does not."""

from __future__ import annotations

from dlenv.managers.source import Source, Sources
from dlenv.plan import Plan
from dlenv.setup.model import Options


def find(plan: Plan, options: Options) -> Sources:
    found = [
        Source(candidate=candidate, torch_index=candidate.index, label=candidate.index or "the package index")
        for candidate in (*plan.fallbacks,)
    ]
    return Sources(packages=tuple(found))
