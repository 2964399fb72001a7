from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
HEAVY = ("torch", "torchvision", "ray", "numpy", "matplotlib", "PIL", "httpx", "pydantic")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["models", "--help"], ["predict", "-h"]]
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; from dlenv.cli import main\n"
        f"try: main({words!r})\n"
        f"except SystemExit as end: print([name for name in {HEAVY!r} if name in sys.modules], end.code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[] 0"


def test_help_is_quick() -> None:
    """Under 0.3 s on an idle machine; the best of five, because a busy one measures itself."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dlenv", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.3


def test_a_missing_package_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['torch'] = None; from dlenv.cli import main;main(['train', 'mlp', '--data', 'spiral'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        "Error: this needs torch, which is not installed here; activate an environment that `dlenv setup --with train` "
        "built, or pip install 'dlenv[train]'\n"
    )


def test_an_unknown_command(run: Run) -> None:
    result = run("trian")
    assert result.code == 2
    assert "No such command 'trian'" in result.stderr
