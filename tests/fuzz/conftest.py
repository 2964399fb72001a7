"""What the fuzzers share, and how many cases they have tried."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fuzz_cases import SEED

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "service"), str(TESTS / "models")]

TRIED: dict[str, int] = {}


@pytest.fixture
def seed() -> int:
    """What the cases are drawn with; printed with each failure and at the end."""
    return SEED


@pytest.fixture(scope="session")
def tried() -> dict[str, int]:
    """Where a test says how many cases it has tried."""
    return TRIED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases were tried."""
    if TRIED:
        terminalreporter.section("cases tried")
        for name, count in TRIED.items():
            terminalreporter.write_line(f"| {name} | {count:,} |")
        terminalreporter.write_line(f"| all | {sum(TRIED.values()):,} | (TEST_FUZZ_SEED={SEED})")
