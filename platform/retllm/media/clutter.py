"""Clutter of an upload: left out, and counted by folder, so that the fate of every file can be read."""

from __future__ import annotations

from collections import Counter

from retllm.media.file_table import Clutter, clutter_of
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, ignored

MAX_PLACES = 200
"""Places of one upload that are listed; further ones are counted together, one outcome for each glob."""


class ClutterCount:
    """Counts the clutter among the files of one upload or archive."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._only: dict[tuple[str, str, str], str] = {}

    def take(self, name: str) -> bool:
        """Return whether the file with this whole name is clutter, and count it if it is."""
        clutter = clutter_of(name)
        if clutter is None:
            return False
        key = self._key(clutter)
        self._counts[key] += 1
        self._only.setdefault(key, clutter.path)
        return True

    def _key(self, clutter: Clutter) -> tuple[str, str, str]:
        """Return folder, glob and reason; equal for all files that one outcome stands for."""
        folder, slash, _ = clutter.path.rpartition("/")
        key = (folder + slash, clutter.glob, clutter.reason)
        return key if key in self._counts or len(self._counts) < MAX_PLACES else ("…/", clutter.glob, clutter.reason)

    def outcomes(self) -> list[FileOutcome]:
        """Return one outcome for each folder and kind of clutter, in the order in which they came."""
        return [
            left_out(self._only[key] if count == 1 else key[0] + key[1], key[2], count)
            for key, count in self._counts.items()
        ]


def left_out(name: str, reason: str, count: int) -> FileOutcome:
    """Return the one outcome of so many files of clutter."""
    files = "" if count == 1 else f", {count:,} files"
    return ignored(clean_name(name), f"Left out: {reason}{files}.", count)
