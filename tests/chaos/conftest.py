"""Faults under load: a table of figures at the end; what takes minutes runs with ``make test-chaos``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Parts of other tests that these use: processes, models, fakes.
sys.path += [str(TESTS / "service"), str(TESTS / "e2e")]

from chaos_load import Figure  # noqa: E402

LONG = "TEST_CHAOS"


FIGURES: list[Figure] = []
HEADS = ("fault", "good", "wrong", "lost", "at most", "told to come back", "not accepted", "full service after, s")


@pytest.fixture(scope="module", autouse=True)
def _own_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No model of whoever runs the tests lies over the shipped ones."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        environment.delenv("DLENV_REPOSITORY", raising=False)
        yield


@pytest.fixture(scope="session")
def figures() -> list[Figure]:
    """Where a test puts its line."""
    return FIGURES


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "chaos: takes minutes; `make test-chaos` runs it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what takes minutes, unless it was asked for."""
    if os.environ.get(LONG):
        return
    for item in items:
        if item.get_closest_marker("chaos") and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"takes minutes; `make test-chaos` ({LONG}=1) runs it"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, as tests/RELIABILITY.md has it."""
    if not FIGURES:
        return
    terminalreporter.section("faults under load")
    terminalreporter.write_line("| " + " | ".join(HEADS) + " |")
    terminalreporter.write_line("| --- |" + " ---: |" * (len(HEADS) - 1))
    for figure in FIGURES:
        *cells, back = astuple(figure)
        terminalreporter.write_line("| " + " | ".join((*map(str, cells), f"{back:.1f}")) + " |")
