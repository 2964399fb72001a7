"""What an experiment is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

__all__ = ["Column", "Experiment", "Outcome", "Value"]

Value = str | int | float


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, and how its values are shown (``format_spec`` of Python)."""

    title: str
    shown_as: str = ""


@dataclass(frozen=True)
class Outcome:
    """The table, the finding in a sentence with its figures, and how the picture is drawn on an empty figure."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    found: str
    draw: Callable[[Figure], None]

    def shown(self) -> list[list[str]]:
        """The rows as text."""
        return [
            [format(value, column.shown_as) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Experiment:
    """One experiment: the question in a line, what the course says about it and where, and what carries it out."""

    name: str
    question: str
    chapter: str
    course_says: str
    run: Callable[[int], Outcome]  # with a seed
