"""What XMP says of a picture in words: a sidecar beside it, or a packet inside of it."""

from __future__ import annotations

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
_PROPERTIES = (*CAPTIONS, HEADLINE, TITLE, ALTERNATIVE)


def description(stream: BinaryIO) -> str | None:
    """Return the description of an XMP document, or else its headline, title or alternative text; None if it has none.

    Raises:
        MediaRejected, TooLarge: as :func:`properties` does.
    """
    found = properties(stream)
    return next((found[name] for name in _PROPERTIES if name in found), None)


def properties(stream: BinaryIO) -> dict[str, str]:
    """Return the properties of an XMP document that say in words what is shown, by ``{namespace}name``.

    Raises:
        MediaRejected: it is not well-formed XML, or has a document type or entities.
        TooLarge: it has more than ``MAX_BYTES``.
    """
    if streams.length(stream) > MAX_BYTES:
        raise TooLarge(f"The XMP is larger than {streams.exact_size(MAX_BYTES)}.", limit=MAX_BYTES)
    found: dict[str, str] = {}
    open_: list[Element] = []
    try:
        for event, element in iterparse(stream, events=("start", "end"), forbid_dtd=True):
            if event == "start":
                open_.append(element)
                if len(open_) > _MAX_DEPTH:
                    raise MediaRejected(f"The XMP is nested more than {_MAX_DEPTH} deep.")
                continue
            open_.pop()
            _take(element, found)
            if not any(parent.tag in _PROPERTIES for parent in open_):
                element.clear()
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise MediaRejected("The XMP is not valid XML without entities: export it again.") from error
    return found


def _take(element: Element, found: dict[str, str]) -> None:
    """Take the texts of an element that ended."""
    for tag in _PROPERTIES:
        text = element.get(tag)
        if element.tag == tag:
            text = _text(element)
        if text and text.strip():
            found.setdefault(tag, text.strip())


def _text(element: Element) -> str:
    """Return the text in the default language, or else the first one."""
    texts = [inner for inner in element.iter() if inner.text and inner.text.strip()]
    texts.sort(key=lambda inner: inner.get(_LANGUAGE) != "x-default")
    return (texts[0].text or "") if texts else ""
