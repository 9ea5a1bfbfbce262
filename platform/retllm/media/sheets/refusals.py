"""The outcomes of refused and empty rows, not too many of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from retllm.errors import MediaRejected, NotSent, RetllmError
from retllm.media.names import one_line, quoted
from retllm.media.outcomes import FileOutcome, ignored, not_sent, rejected
from retllm.media.sheets.located import Picture
from retllm.media.sheets.rows import Problem, Reason, problem
from retllm.media.sheets.targets import shown_name

SHOWN = 20
"""How many rows of one sheet are named for each reason."""


@dataclass(slots=True)
class Refusals:
    """Counts the refused and empty rows of one sheet, and names the first ones of each reason."""

    sheet: str
    _counts: dict[Reason, int] = field(default_factory=dict)
    _last: dict[Reason, int] = field(default_factory=dict)

    def take(self, number: int, problem: Problem) -> FileOutcome | None:
        """Return the outcome of a refused row, None if enough rows were refused for its reason."""
        count = self._counts[problem.reason] = self._counts.get(problem.reason, 0) + 1
        if count > SHOWN:
            return None
        self._last[problem.reason] = number
        return _outcome(f"{self.sheet}, row {number}", problem.reason, problem.error)

    @property
    def total(self) -> int:
        """How many rows were refused, without empty ones."""
        return sum(count for reason, count in self._counts.items() if reason is not Reason.EMPTY)

    def rest(self) -> list[FileOutcome]:
        """Return one outcome for the further rows of each reason."""
        return [
            _outcome(
                self.sheet,
                reason,
                (NotSent if reason is Reason.NOT_SENT else MediaRejected)(
                    f"And {count - SHOWN:,} more like row {self._last[reason]}: {reason.value}."
                ),
                count - SHOWN,
            )
            for reason, count in self._counts.items()
            if count > SHOWN
        ]


def _outcome(name: str, reason: Reason, error: RetllmError, count: int = 1) -> FileOutcome:
    if reason is Reason.EMPTY:
        return ignored(name, error.message, count)
    return (not_sent if reason is Reason.NOT_SENT else rejected)(name, error, count)


def not_it(number: int, name: str, picture: Picture) -> Problem:
    """Return why a row does not mean a picture that only looks like the one that it names."""
    message = (
        f"Row {number} names the picture {quoted(shown_name(name))}, which is not in this collection; "
        f"{quoted(one_line(picture.located.name))} is, but has a row of its own: upload the picture or "
        "correct the name."
    )
    return problem(Reason.NOT_FOUND, message)


@dataclass(frozen=True, slots=True)
class Refusing:
    """Why all rows of a picture are refused; the message goes on after the number of a row."""

    reason: Reason
    message: str

    def __call__(self, number: int) -> Problem:
        return problem(self.reason, f"Row {number} {self.message}")
