"""Lines of bounded length."""

from __future__ import annotations

import io
from collections.abc import Iterator

from retllm.errors import TooLarge
from retllm.settings import Settings

# bounds of a line in relation to its text: escapes take up to six characters for one; a path and quotes come on top
_FACTOR = 6
_OVERHEAD = 16_384


def max_length(settings: Settings) -> int:
    """Return the maximum length of a row of a sheet, in characters."""
    return settings.max_text_chars * _FACTOR + _OVERHEAD


def bounded(text: io.TextIOBase, settings: Settings) -> Iterator[str]:
    """Yield the lines with their line ends; never read a line beyond the maximum length of a row.

    A byte order mark before the first line is left out.

    Raises:
        TooLarge: a line is longer.
    """
    limit = max_length(settings)
    first = True
    while line := text.readline(limit):
        if len(line) >= limit and not line.endswith(("\n", "\r")):
            raise TooLarge(
                f"A line has more than {limit:,} characters; RETLLM_MAX_TEXT_CHARS allows captions of "
                f"{settings.max_text_chars:,} characters.",
                limit=settings.max_text_chars,
            )
        yield line.lstrip("\ufeff") if first else line
        first = False
