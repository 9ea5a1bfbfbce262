"""Say in words for people what a decoder reported; what a decoder says is not trusted."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from retllm.errors import MediaRejected, RetllmError, TooLarge
from retllm.media import streams
from retllm.media.decoding.facts import MAX_REASON, Blemish
from retllm.media.formats import PICTURE_FORMATS
from retllm.settings import Settings

_REMARKS = {
    Blemish.METADATA: "Some of its metadata is damaged and was left out.",
    Blemish.LONG_TEXT: "It holds more than 1 MB of text, which was not read.",
    Blemish.PROFILE: "Its colour profile can't be used: the colours are shown without it.",
    Blemish.END: "The file does not end with its end marker; the picture itself is complete.",
    Blemish.TRAILING: "Other data follows the picture in its file and was left out.",
    Blemish.PREVIEW: "The raw file is damaged or of a camera that is not known yet: the camera's own preview is shown.",
    Blemish.INSIDE: "The file is damaged in the middle: parts of the picture may be wrong.",
    Blemish.REST: "The rest of the film is damaged and was left out.",
}
# what each extra of the installation reads
_EXTRAS = {"raw": "raw files of cameras", "pdf": "PDFs", "film": "films"}


def remark_of(facts: dict[str, Any]) -> str | None:
    """Return what is wrong with the file of a picture that is taken nevertheless; None if nothing."""
    found = facts.get("blemishes")
    known = found if isinstance(found, list) else []
    return " ".join(remark for blemish, remark in _REMARKS.items() if blemish in known) or None


def pieces_of(facts: dict[str, Any], payload: bytes | bytearray, count: int) -> tuple[bytes, ...]:
    """Return the ``count`` files in the payload of a response.

    Raises:
        MediaRejected: the lengths that the decoder reported are not those of the payload.
    """
    lengths = facts.get("pieces")
    if (
        not isinstance(lengths, list)
        or len(lengths) != count
        or not all(isinstance(length, int) and length >= 0 for length in lengths)
        or sum(lengths) != len(payload)
    ):
        raise unreadable("the decoder returned an invalid picture")
    ends = list(accumulate(lengths))
    return tuple(bytes(payload[end - length : end]) for end, length in zip(ends, lengths, strict=True))


def hash_of(facts: dict[str, Any]) -> int | None:
    """Return the perceptual hash that the decoder reported; None if that is none."""
    found = facts.get("hash")
    return found if isinstance(found, int) and not isinstance(found, bool) and -(1 << 63) <= found < 1 << 63 else None


def reason_of(facts: dict[str, Any]) -> str:
    """Return what the decoder says is wrong with a file, in one line without capital and full stop."""
    return " ".join(str(facts.get("reason")).split())[:MAX_REASON]


def rejection(
    facts: dict[str, Any], max_pixels: int, settings: Settings, setting: str = "RETLLM_MAX_PIXELS"
) -> RetllmError:
    """Return the error for a file that the decoder refused; ``setting`` is that of ``max_pixels``."""
    cause, extra = facts["refused"], facts.get("extra")
    if cause == "pixels":
        width, height, count = facts.get("width"), facts.get("height"), facts.get("count")
        size = "too many pixels"
        if isinstance(width, int) and isinstance(height, int):
            size = f"{width * height:,} pixels ({width:,} × {height:,})"
        elif isinstance(count, int):
            size = f"{count:,} pixels"
        return TooLarge(
            f"The picture has {size}; {setting} allows {max_pixels:,}: make it smaller and send it again.",
            limit=max_pixels,
        )
    if cause == "memory":
        return unreadable(f"it takes more than {streams.exact_size(settings.decode_memory)} to decode")
    if cause == "extra" and extra in _EXTRAS:
        return MediaRejected(
            f"The server reads {_EXTRAS[extra]} once its operator has run pip install 'retllm-platform[{extra}]'; "
            "until then, export pictures as JPEG."
        )
    if cause == "locked":
        return MediaRejected("The PDF is locked by a password: save it without one and send it again.")
    if cause == "unsupported":
        return MediaRejected(f"The file is {reason_of(facts)}: export it as JPEG or PNG.")
    if cause == "unknown":
        return MediaRejected(
            f"The file is not a readable picture. Accepted formats: {PICTURE_FORMATS}; if it is a rare variant of one "
            "of these, save it as PNG."
        )
    return MediaRejected(f"The file is damaged or truncated ({reason_of(facts)}): export it again.")


def unreadable(reason: str) -> MediaRejected:
    """Return the error for a picture that the decoder failed on."""
    return MediaRejected(f"The picture can't be read: {reason}. Save it again, or make it smaller.")
