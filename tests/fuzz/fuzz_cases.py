"""How many cases are tried: 20,000 in all by default, as many as ``make test-fuzz CASES=...`` says otherwise."""

from __future__ import annotations

import os
import random

CASES = int(os.environ.get("TEST_FUZZ_CASES", "20000"))
# Fixed in the short form, so that it tries the same cases each time; another one each time otherwise.
SEED = int(os.environ.get("TEST_FUZZ_SEED", "7" if CASES <= 20_000 else str(random.randrange(2**32))))


def share(part: float) -> int:
    """So many cases are one test's; the parts of all tests make 1."""
    return max(1, round(CASES * part))
