"""Whole files whose parts are items: how a part is named and told apart (design: media).

A part is a mapping as items store it: ``{"page": 3, "pages": 12}``, or ``{"seconds": 12.48}`` from a film's beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from retllm.media.names import MAX_NAME
from retllm.media.parts import BrokenPart, RenderedPart


def part_of(part: RenderedPart | BrokenPart) -> dict[str, Any]:
    """Return a part as items store it."""
    if part.page is not None:
        return {"page": part.page, "pages": part.pages or part.page}
    return {} if part.seconds is None else {"seconds": part.seconds}


def part_name(name: str, part: Mapping[str, Any]) -> str:
    """Return the name of a part of the file ``name``; the only page of a file has the file's name."""
    if part.get("pages") == 1:
        return name
    label = f", page {part['page']}" if "page" in part else f", {clock(part['seconds'])}" if part else ", a frame"
    return name[: MAX_NAME - len(label)] + label


def part_label(part: Mapping[str, Any]) -> str:
    """Say for people which part of its file an item is."""
    return f"page {part['page']:,} of {part['pages']:,}" if "page" in part else f"at {clock(part['seconds'])}"


def clock(seconds: float) -> str:
    """Return a time as people write it, with tenths if there are any: 0:12.5, 1:02:03."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths // 10, 60)
    hours, minutes = divmod(minutes, 60)
    begin = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{begin}:{rest:02}" + (f".{tenths % 10}" if tenths % 10 else "")


def part_sha256(sha256: str, part: Mapping[str, Any]) -> str:
    """Return the content of a part of a file with this SHA-256: the same whenever the file is uploaded."""
    which = f"page {part['page']}" if "page" in part else f"seconds {part['seconds']:.3f}"
    return hashlib.sha256(f"{sha256} {which}".encode()).hexdigest()


def part_id(file_id: UUID, number: int) -> UUID:
    """Return the key of part ``number`` (from 1) of a file: right after that of the file, in the order of the parts."""
    # the lowest 62 bits of a UUID v7 are random
    return UUID(int=file_id.int + number)


def source_key(source_id: UUID) -> str:
    """Return the storage key of a whole file."""
    return f"sources/{source_id.hex[-2:]}/{source_id}/original"
