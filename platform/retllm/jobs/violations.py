"""The shape in which every rule of ``invariants`` tells what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Violation:
    """Something that must never be.

    Attributes:
        rule: the name of the rule.
        subject: the key of the job, unit, search or file.
        meaning: what should be true, in words.
        detail: what was found.
    """

    rule: str
    subject: str
    meaning: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.meaning}, but {self.subject}: {self.detail}"

    def as_json(self) -> dict[str, str]:
        """The violation as plain values."""
        return asdict(self)
