"""What became of the rows of a sheet when it was read before; it is read again for the rows that were refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class EarlierRows:
    """The names of the rows of one sheet that have an outcome already.

    Attributes:
        sheet: the name of the sheet.
        done: rows that need not be applied again, so that nothing is lost that was changed or deleted since. A row
            stands for all rows of its picture.
        refused: rows that were refused; with the name of the sheet if there were more than have an outcome.
    """

    sheet: str
    done: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def name(self, number: int) -> str:
        """Return the name of a row."""
        return f"{self.sheet}, row {number}"

    def is_done(self, number: int) -> bool:
        """Return whether a row was read before and not refused, itself or as one of the rows of its picture."""
        name = self.name(number)
        return name in self.done or bool(self.refused and self.refused.isdisjoint({name, self.sheet}))

    def settled(self, numbers: Collection[int]) -> bool:
        """Return whether these rows, which are all of one picture or the one of a text, are done."""
        names = {self.name(number) for number in numbers}
        if names.isdisjoint(self.done):
            return False
        return names <= self.done if self.sheet in self.refused else names.isdisjoint(self.refused)
