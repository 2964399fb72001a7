"""What README.md and README.zh-CN.md show and say is so, beyond the examples that are run."""

from __future__ import annotations

import re
from pathlib import Path

import machines
import pytest
from docs_examples import blocks

from dlenv.machine.model import Gpu
from dlenv.setup import show

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]


@pytest.mark.parametrize(("readme", "language"), [*zip(READMES, ("en", "zh"), strict=True)])
def test_the_machine_with_an_old_gpu_gets_what_is_shown(
    readme: Path, language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DLENV_LANG", language)
    gpu = Gpu(index=0, name=machines.NAMES["6.1"], compute_capability="6.1", memory_mib=11264)
    system = "Debian GNU/Linux 12 (bookworm)"
    machine = machines.machine(
        "linux 2.36", "580.82.07", "6.1", gpus=(gpu,), cuda_driver="13.0", os_version=system, libc=("glibc", "2.36")
    )
    show.plan(machine, machines.make(machine, course="zh"), Path(".venv"))
    printed = "".join(capsys.readouterr()).splitlines()
    example = next(block for block in blocks(readme) if "GTX 1080 Ti" in block.text)
    _, *lines, more = example.text.splitlines()
    assert more.strip() == "..."
    assert printed[: len(lines)] == lines


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_each_figure_of_the_benchmark_is_in_the_results(path: Path) -> None:
    results = (ROOT / "tests" / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) ms \| ([\d,]+) \| ([\d,]+) \|$", path.read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 8
    for median, at_32, at_128 in rows:
        assert re.search(rf"^\| [^|]+ \| [\d,]+ \| {at_32} \| {at_128} \| {median} / ", results, re.MULTILINE), at_32
