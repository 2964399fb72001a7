"""What a plan says for itself."""

from __future__ import annotations


class Notes:
    """Sentences for the user, in order and without repetition, while a plan is made."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.warnings: list[str] = []

    def because(self, sentence: str) -> None:
        """A decision, and why."""
        if sentence not in self.reasons:
            self.reasons.append(sentence)

    def warn(self, sentence: str) -> None:
        """A risk, and what to do about it."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)
