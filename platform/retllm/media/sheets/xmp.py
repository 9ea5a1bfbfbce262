"""What XMP says of a picture in words: a sidecar beside it, or a packet inside of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from retllm.errors import MediaRejected, TooLarge
from retllm.media import streams

MAX_BYTES = 8 << 20
"""How long a sidecar may be; programs keep whole drawings in them."""
_MAX_DEPTH = 100
_DC = "{http://purl.org/dc/elements/1.1/}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_ACDSEE = "{http://ns.acdsee.com/iptc/1.0/}"
_TIFF = "{http://ns.adobe.com/tiff/1.0/}"
HEADLINE = "{http://ns.adobe.com/photoshop/1.0/}Headline"
TITLE = f"{_DC}title"
# IPTC Photo Metadata Standard 2021.1, "Alt Text (Accessibility)"
ALTERNATIVE = "{http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/}AltTextAccessibility"
CAPTIONS = (f"{_DC}description", f"{_ACDSEE}caption", f"{_ACDSEE}notes", f"{_TIFF}ImageDescription")
"""Properties that describe a picture, the best first."""
_XMP = "{http://ns.adobe.com/xap/1.0/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
KEYWORDS, RATING = f"{_DC}subject", f"{_XMP}Rating"
TAKEN = (f"{_EXIF}DateTimeOriginal", "{http://ns.adobe.com/photoshop/1.0/}DateCreated", f"{_XMP}CreateDate")
"""Properties that say when a picture was taken, the best first."""
MAKE, MODEL = f"{_TIFF}Make", f"{_TIFF}Model"
LENSES = ("{http://cipa.jp/exif/1.0/}LensModel", "{http://ns.adobe.com/exif/1.0/aux/}Lens")
LATITUDE, LONGITUDE = f"{_EXIF}GPSLatitude", f"{_EXIF}GPSLongitude"
FACTS = (TITLE, KEYWORDS, RATING, *TAKEN, MAKE, MODEL, *LENSES, LATITUDE, LONGITUDE)
"""Properties that say how a picture was made, and how people sort it."""
_PROPERTIES = (*CAPTIONS, HEADLINE, TITLE, ALTERNATIVE)


def description(stream: BinaryIO) -> str | None:
    """Return the description of an XMP document, or else its headline, title or alternative text; None if it has none.

    Raises:
        MediaRejected, TooLarge: as :func:`properties` does.
    """
    found = properties(stream)
    return next((found[name] for name in _PROPERTIES if name in found), None)


def properties(stream: BinaryIO, wanted: Sequence[str] = _PROPERTIES) -> dict[str, str]:
    """Return the properties of an XMP document that say in words what is shown, by ``{namespace}name``.

    Raises:
        MediaRejected: it is not well-formed XML, or has a document type or entities.
        TooLarge: it has more than ``MAX_BYTES``.
    """
    return {name: values[0] for name, values in all_values(stream, wanted).items()}


def all_values(stream: BinaryIO, wanted: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of some properties of an XMP document, those in the default language first.

    Raises:
        MediaRejected, TooLarge: as :func:`properties` does.
    """
    if streams.length(stream) > MAX_BYTES:
        raise TooLarge(f"The XMP is larger than {streams.exact_size(MAX_BYTES)}.", limit=MAX_BYTES)
    found: dict[str, list[str]] = {}
    open_: list[Element] = []
    try:
        for event, element in iterparse(stream, events=("start", "end"), forbid_dtd=True):
            if event == "start":
                open_.append(element)
                if len(open_) > _MAX_DEPTH:
                    raise MediaRejected(f"The XMP is nested more than {_MAX_DEPTH} deep.")
                continue
            open_.pop()
            inside = any(parent.tag in wanted for parent in open_)
            _take(element, wanted, found, inside=inside)
            if not inside:
                element.clear()
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise MediaRejected("The XMP is not valid XML without entities: export it again.") from error
    return found


def _take(element: Element, wanted: Sequence[str], found: dict[str, list[str]], *, inside: bool) -> None:
    """Take the texts of an element that ended; what is inside a wanted one is part of its texts, and read once."""
    for tag in wanted:
        texts = _texts(element) if element.tag == tag and not inside else [element.get(tag) or ""]
        if texts := [text.strip() for text in texts if text.strip()]:
            found.setdefault(tag, texts)


def _texts(element: Element) -> list[str]:
    """Return the texts in an element, those in the default language first."""
    inner = [part for part in element.iter() if part.text and part.text.strip()]
    inner.sort(key=lambda part: part.get(_LANGUAGE) != "x-default")
    return [part.text or "" for part in inner]
