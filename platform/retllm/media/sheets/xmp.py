"""The description in XMP: a sidecar beside a picture, or a packet inside of one."""

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
_FIELDS = ("description", "title")


def description(stream: BinaryIO, *, title: bool = True) -> str | None:
    """Return ``dc:description``, or else with ``title`` ``dc:title``, of an XMP document; None if it has none.

    Raises:
        MediaRejected: it is not well-formed XML, or has a document type or entities.
        TooLarge: it has more than ``MAX_BYTES``.
    """
    if streams.length(stream) > MAX_BYTES:
        raise TooLarge(f"The XMP is larger than {streams.mebibytes(MAX_BYTES)}.", limit=MAX_BYTES)
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
            if not any(parent.tag.startswith(_DC) for parent in open_):
                element.clear()
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise MediaRejected("The XMP is not valid XML without entities: export it again.") from error
    return found.get("description") or (found.get("title") if title else None)


def _take(element: Element, found: dict[str, str]) -> None:
    """Take the texts of an element that ended."""
    for name in _FIELDS:
        tag = f"{_DC}{name}"
        text = element.get(tag)
        if element.tag == tag:
            text = _text(element)
        if text and text.strip():
            found.setdefault(name, text.strip())


def _text(element: Element) -> str:
    """Return the text in the default language, or else the first one."""
    texts = [inner for inner in element.iter() if inner.text and inner.text.strip()]
    texts.sort(key=lambda inner: inner.get(_LANGUAGE) != "x-default")
    return (texts[0].text or "") if texts else ""
