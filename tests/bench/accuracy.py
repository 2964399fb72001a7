"""The commands of docs/accuracy.md that stand beside published figures, run where their data can be had.

    python tests/bench/accuracy.py [--only mnist,fashion-mnist,cifar10] [--data-dir DIR] [--table FILE.md] [OPTIONS]

Prints the table with what came out; OPTIONS after ``--`` go to each ``dlenv train``, such as ``-- --device cuda``.
Models and records lie in runs/accuracy.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parents[2] / "docs" / "accuracy.md"
ROW = re.compile(r"\| `dlenv (?P<command>train .+?)` \| (?P<published>[\d.]+) % \| (?P<source>.+) \| .+ \|")
OUTPUT = Path("runs") / "accuracy"


@dataclass(frozen=True)
class Published:
    """A command, and the accuracy in percent that others published for the same split."""

    words: tuple[str, ...]
    accuracy: str
    source: str

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.words[self.words.index("--data") + 1]


def rows(table: Path) -> list[Published]:
    """The rows of the Markdown table that has published figures."""
    found = map(ROW.fullmatch, table.read_text(encoding="utf-8").splitlines())
    return [Published(tuple(shlex.split(row["command"])), row["published"], row["source"]) for row in found if row]


def run(row: Published, number: int, more: Sequence[str]) -> str:
    """The accuracy that came out, in percent, or why there is none."""
    places = ["--repository", str(OUTPUT / "models"), "--output", str(OUTPUT / str(number)), "--json"]
    command = [sys.executable, "-m", "dlenv", *row.words, *places, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"not run: {done.stderr.strip().splitlines()[-1]}"
    return f"{json.loads(done.stdout)['test_accuracy']:.2%}".replace("%", " %")


def lines(table: Path, only: Sequence[str], more: Sequence[str]) -> Iterator[str]:
    """The Markdown table again, row by row as each is known."""
    yield "| command | published, test accuracy | by whom | dlenv |"
    yield "| --- | --- | --- | --- |"
    for number, row in enumerate(rows(table), 1):
        if not only or row.data in only:
            command = shlex.join(["dlenv", *row.words])
            yield f"| `{command}` | {row.accuracy} % | {row.source} | {run(row, number, more)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="data sets, with commas between them [default: all]")
    parser.add_argument("--data-dir", type=Path, help="where the data sets are, or will be [default: dlenv's cache]")
    parser.add_argument("--table", type=Path, default=TABLE, help="Markdown that has the commands")
    parser.add_argument("more", nargs="*", metavar="OPTIONS", help="of dlenv train")
    given = parser.parse_args()
    places = ["--data-dir", str(given.data_dir)] if given.data_dir else []
    for line in lines(given.table, [name for name in given.only.split(",") if name], [*places, *given.more]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
