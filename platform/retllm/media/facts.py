"""What the file of a picture says of how it was made, and of how people sort it: EXIF, XMP and IPTC as columns.

Where several say something, the first of EXIF, XMP and IPTC counts for what a camera writes (as the Metadata Working
Group recommends, "Guidelines for Handling Image Metadata", version 2.0, 5.2), and of XMP, IPTC and EXIF for what people
write.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from retllm.db.facts import end_of
from retllm.errors import MediaRejected, TooLarge
from retllm.media.decoding.texts import Texts
from retllm.media.normalization import composed
from retllm.media.sheets import iptc, xmp

MAX_CHARS = 500
"""Characters of a title, a tag, a camera or a lens; the rest of a longer one is left out."""
MAX_TAGS = 200
MAX_RATING = 5
_MAX_ZONE = 14 * 60
# EXIF, XMP (a part of ISO 8601) and IPTC write times differently; of a scan, month and day may be 0 or missing
_TIME = re.compile(
    r"(?P<year>\d{4})(?:[-:]?(?P<month>\d\d)(?:[-:]?(?P<day>\d\d)"
    r"(?:[T ]?(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,]\d*)?)?\s*(?P<zone>Z|[-+]\d\d:?\d\d)?)?)?)?"
)
_ZONE = re.compile(r"(?P<sign>[-+])(?P<hours>\d\d):?(?P<minutes>\d\d)")
# XMP: degrees and minutes, or degrees, minutes and seconds, and the side
_ANGLE = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d+)?)(?:,(\d{1,2}(?:\.\d+)?))?\s*([NSEW])", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class Taken(NamedTuple):
    """When a picture was taken: from ``begin`` until before ``end``, by a clock so many minutes before UTC."""

    begin: datetime
    end: datetime
    zone: int | None


def facts_of(texts: Texts) -> dict[str, Any]:
    """Return the columns of an item (:class:`retllm.db.facts.ItemFacts`) that its file knows."""
    shot, said, fields = _json(texts.shot), _xmp(texts.xmp), iptc.texts(texts.iptc)
    taken = _first(_times(shot, said, fields))
    place = _place(shot, said)
    makes, models = [shot.get("make"), *said.get(xmp.MAKE, [])], [shot.get("model"), *said.get(xmp.MODEL, [])]
    tags = [*said.get(xmp.KEYWORDS, []), *fields.get(iptc.KEYWORD, []), *str(shot.get("keywords", "")).split(";")]
    found = {
        "title": _first(map(line, (*said.get(xmp.TITLE, []), *fields.get(iptc.TITLE, []), shot.get("title")))),
        "tags": clean_tags(tags) or None,
        "rating": _rating([*said.get(xmp.RATING, []), shot.get("rating")]),
        "camera": _camera(_first(map(line, makes)), _first(map(line, models))),
        "lens": _first(map(line, (shot.get("lens"), *(text for name in xmp.LENSES for text in said.get(name, []))))),
        **(dict(zip(("taken", "taken_until", "taken_zone"), taken, strict=True)) if taken else {}),
        **(dict(zip(("latitude", "longitude"), place, strict=True)) if place else {}),
    }
    return {name: value for name, value in found.items() if value is not None}


def line(text: Any, most: int = MAX_CHARS) -> str | None:
    """Return a text as one line of at most so many characters; None if nothing is left."""
    if not isinstance(text, str):
        return None
    shown = " ".join(_CONTROL.sub(" ", composed(text.encode("utf-8", "replace").decode())).split())
    return shown[:most].strip() or None


def clean_tags(texts: Iterable[Any]) -> list[str]:
    """Return tags in their order, each once, at most ``MAX_TAGS``."""
    tags = dict.fromkeys(filter(None, map(line, texts)))
    return list(tags)[:MAX_TAGS]


def taken_at(text: Any, zone: Any = None) -> Taken | None:
    """Read a time as EXIF, XMP or IPTC writes it: a year, a month, a day, a minute or a second; None if it is none.

    Args:
        zone: the clock's offset from UTC, such as ``+02:00``, if it is written beside the time.
    """
    found = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        return None
    parts: list[int] = []
    for name in ("year", "month", "day", "hour", "minute", "second"):
        # the first that is not known ends it
        if found[name] is None or (name in ("month", "day") and int(found[name]) == 0):
            break
        parts.append(int(found[name]))
    try:
        begin = datetime(*(parts + [1, 1][len(parts) - 1 :] if len(parts) < 3 else parts))  # type: ignore[arg-type]
        return Taken(begin, end_of(begin, len(parts)), _minutes(found["zone"] or zone, len(parts)))
    except (ValueError, OverflowError):
        return None


def _minutes(zone: Any, parts: int) -> int | None:
    """Return the offset of a clock; None of a mere day."""
    if parts < 4:
        return None
    if zone == "Z":
        return 0
    found = _ZONE.fullmatch(zone.strip()) if isinstance(zone, str) else None
    if found is None:
        return None
    minutes = 60 * int(found["hours"]) + int(found["minutes"])
    if minutes > _MAX_ZONE:
        return None
    return -minutes if found["sign"] == "-" else minutes


def _times(
    shot: Mapping[str, Any], said: Mapping[str, list[str]], fields: Mapping[tuple[int, int], list[str]]
) -> Iterator[Taken | None]:
    yield taken_at(shot.get("taken"), shot.get("zone"))
    original, created, *others = (said.get(name, [None])[0] for name in xmp.TAKEN)
    yield taken_at(original)
    yield taken_at(created)
    for date in fields.get(iptc.DATE, [])[:1]:
        (time,) = fields.get(iptc.TIME, [""])[:1]
        yield taken_at(date + time)
        yield taken_at(date)
    yield taken_at(shot.get("digitized"), shot.get("zone"))
    yield from map(taken_at, others)


def _place(shot: Mapping[str, Any], said: Mapping[str, list[str]]) -> tuple[float, float] | None:
    of_xmp = (_angle(said.get(name, [""])[0]) for name in (xmp.LATITUDE, xmp.LONGITUDE))
    for place in ((shot.get("latitude"), shot.get("longitude")), tuple(of_xmp)):
        latitude, longitude = (part if isinstance(part, int | float) else None for part in place)
        # 0, 0 is what programs write that know none
        if latitude is None or longitude is None or (latitude == longitude == 0):
            continue
        if abs(latitude) <= 90 and abs(longitude) <= 180:
            return float(latitude), float(longitude)
    return None


def _angle(text: str) -> float | None:
    found = _ANGLE.fullmatch(text.strip())
    if found is None:
        return None
    degrees = int(found[1]) + float(found[2]) / 60 + float(found[3] or 0) / 3600
    return -degrees if found[4].upper() in "SW" else degrees


def _camera(make: str | None, model: str | None) -> str | None:
    """Return maker and model; many models begin with their makers."""
    if not make or not model:
        return model or make
    first = make.split()[0]
    return model if model.lower().startswith(first.lower()) else f"{make} {model}"[:MAX_CHARS]


def _rating(values: Iterable[Any]) -> int | None:
    for value in values:
        with suppress(TypeError, ValueError, OverflowError):
            # -1 is for rejected pictures, and 0 for those that nobody has rated
            if 1 <= (rating := round(float(value))) <= MAX_RATING:
                return rating
    return None


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _json(data: bytes) -> dict[str, Any]:
    # it comes from a decoder, which a picture may have taken over
    with suppress(ValueError, RecursionError):
        found = json.loads(data or b"{}")
        if isinstance(found, dict):
            return found
    return {}


def _xmp(packet: bytes) -> dict[str, list[str]]:
    try:
        # padding after the packet is no XML
        return xmp.all_values(io.BytesIO(packet.strip(b"\0 \t\r\n")), xmp.FACTS) if packet else {}
    except (MediaRejected, TooLarge):
        return {}


def written_time(begin: datetime, end: datetime, zone: int | None) -> str:
    """Return a time as precisely as it is known, in ISO 8601, such as ``1923-05`` or ``2003-07-02T14:30:05+02:00``."""
    length = end - begin
    if length > timedelta(days=31):
        return f"{begin:%Y}".rjust(4, "0")
    if length > timedelta(days=1):
        return begin.date().isoformat()[:7]
    if length > timedelta(minutes=1):
        return begin.date().isoformat()
    text = begin.isoformat(timespec="minutes" if length > timedelta(seconds=1) else "seconds")
    if zone is None:
        return text
    hours, minutes = divmod(abs(zone), 60)
    return f"{text}{'-' if zone < 0 else '+'}{hours:02}:{minutes:02}"
