"""The notebook from d2l to HTTP runs as it stands, in order, and shows what it really prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "from-d2l-to-http.ipynb"


def cells() -> list[tuple[str, str]]:
    """Source of each code cell, and the text that it shows."""
    found = []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            texts = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
            found.append(("".join(cell["source"]), "".join(texts)))
    return found


def test_every_cell_runs_and_prints_what_it_shows(tmp_path: Path) -> None:
    """As plain Python, in a process of its own: Jupyter adds nothing that these cells use."""
    end = "print('\\x1e')"
    program = "\n".join(f"{source}\n{end}" for source, _ in cells())
    # What a notebook takes from the last line of a cell is not printed here, and is not needed for the rest.
    environ = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    printed = result.stdout.split("\x1e")
    for (source, shown), output in zip(cells(), printed, strict=False):
        assert pattern(output) == pattern(shown), f"{source}\n\n{output}"
    assert re.search(r"book-lenet/1: (8[5-9]|9\d)\.\d% of 1000 held-out images", result.stdout)
    assert "the same as here: True" in result.stdout
    images, batches = map(int, re.findall(r"(\d+) images in (\d+) batches", result.stdout)[0])
    assert images == 197  # one picture, a hundred in one request, and 96 one by one
    assert batches <= images


def pattern(text: str) -> list[str]:
    return re.sub(r"\d+(?:\.\d+)?", "0", text).split()


def test_it_is_kept_with_its_outputs_and_without_traces_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert sum(bool(shown) for _, shown in cells()) >= 5
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
