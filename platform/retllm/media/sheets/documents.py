"""JSON documents, read as a stream: however long the document, one element at a time is in memory."""

from __future__ import annotations

import io
import math
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ijson

from retllm.errors import MediaRejected, TooLarge
from retllm.media.sheets.encodings import BROKEN
from retllm.media.sheets.objects import integer, put

MAX_DEPTH = 32
"""How deep the lists and objects of a document may lie in each other."""
MAX_NODES = 100_000
"""How many values one element of a document may have."""
TOO_DEEP = object()
"""Stands for an element, or a member of the document, that is nested more than ``MAX_DEPTH`` deep."""
_BUFFER = 1 << 14

# the parser takes neither bytes that are no text nor half a surrogate pair: a mark and a digit stand for them, and
# before the digits of a number that is too large for it
_MARK = "\uffff"
_OWN, _BYTE, _HALF, _NUMBER = (f"{_MARK}{digit}" for digit in range(4))
_MARKED = {_OWN: _MARK, _BYTE: "\udc80", _HALF: "\ud800"}
# both halves of a pair, one half, the mark itself; a number that may be too large; another escaped character, a quote,
# or what Python writes for a number that JSON has not
_HEX = "[0-9a-fA-F]"
_LARGE = r"(?<![\w.])-?(?:[0-9]{19,}(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]{3,})"
_WITH_LARGE, _WITHOUT = (
    re.compile(
        rf"(\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}})|(\\u[dD][89a-fA-F]{_HEX}{{2}})|(\\u[fF]{{4}})|({number})"
        r'|\\.|"|-?\b(?:NaN|Infinity)\b',
        re.DOTALL,
    )
    for number in (_LARGE, "(?!)")
)
# found faster: nothing in most of a document
_MAYBE_LARGE = re.compile("[0-9]{19}|[eE][-+]?[0-9]{3}")
_LONGEST_ESCAPE = 12
_IN_WORDS = string.ascii_letters + string.digits + "+-."
_LONGEST_WORD = 1 << 10

Event = tuple[str, Any]
_BEGINS, _ENDS = ("start_map", "start_array"), ("end_map", "end_array")


@dataclass(frozen=True, slots=True)
class Part:
    """An element of a list, or a member of the object that the document is.

    Attributes:
        key: the key of the member; None for an element of a list that is the whole document.
        listed: whether the member is a list, of which ``value`` is one element.
    """

    key: str | None
    listed: bool
    value: object


class _Bytes:
    """Gives the parser UTF-8 without byte order mark, whatever the encoding of the file.

    What Python writes for numbers that JSON has not becomes null: NaN and the infinite ones. What the parser does not
    take inside of texts is marked; :func:`_unmarked` gives it back.
    """

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._begun = False
        self._left = ""
        self._in_text = False

    def read(self, size: int = _BUFFER) -> bytes:
        while chunk := self._text.read(size):
            if not self._begun:
                self._begun = True
                chunk = chunk.lstrip("\ufeff")
            if made := self._standard(BROKEN.sub(_BYTE, chunk.replace(_MARK, _OWN))):
                return made.encode("utf-8")
        return self._standard("").encode("utf-8")

    def _standard(self, chunk: str) -> str:
        """Return what can be told of the text up to the end of a chunk; without a chunk, the rest."""
        given = self._left + chunk
        word = len(given.rstrip(_IN_WORDS)) if chunk else len(given)
        made: list[str] = []
        at = 0
        special = _WITH_LARGE if _MAYBE_LARGE.search(given) else _WITHOUT
        for found in special.finditer(given):
            is_escape = found[0][0] == "\\"
            if chunk and is_escape and len(given) - found.start() < _LONGEST_ESCAPE:
                # the other half of a pair may follow
                end = found.start()
                break
            if not (is_escape or self._in_text) and found.start() >= word:
                end = word
                break
            if found[0] == '"':
                self._in_text = not self._in_text
            elif instead := self._instead(found):
                made += [given[at : found.start()], instead]
                at = found.end()
        else:
            end = len(given) - _is_open(given) if self._in_text else word
        self._left = _shortened(given[end:])
        if len(self._left) > _LONGEST_WORD:
            # no number, so the parser refuses it
            end, self._left = len(given), ""
        return "".join([*made, given[at:end]])

    def _instead(self, found: re.Match[str]) -> str | None:
        """Return what the parser gets instead of something special; None for the same."""
        pair, half, mark, number = found.groups()
        if half or mark:
            return _HALF if half else _OWN
        if pair or self._in_text or found[0][0] == "\\":
            return None
        return _instead_of_number(number) if number else "null"


def _instead_of_number(number: str) -> str | None:
    """Return a text for a number that the parser can't represent; None if it can."""
    if not number.lstrip("-").isdecimal():
        return None if math.isfinite(float(number)) else f'"{_NUMBER}"'
    return f'"{_NUMBER}{number}"'


def _is_open(text: str) -> bool:
    """Return whether a backslash at the end of a text begins an escape."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _shortened(word: str) -> str:
    """Return the beginning of a word that a document continues; of a very long number, as much as tells that it is."""
    return word[:_LONGEST_WORD] if word[_LONGEST_WORD:].isdecimal() else word


def _unmarked(text: str) -> str | float:
    """Return what a marked text is: a number, or one with bytes that ``ESCAPED`` finds, and halves of pairs."""
    if text.startswith(_NUMBER):
        return integer(text.removeprefix(_NUMBER))
    return re.sub(f"{_MARK}.", lambda found: _MARKED[found[0]], text) if _MARK in text else text


def parts(text: io.TextIOBase) -> Iterator[Part]:
    """Yield the parts of a document: the elements of a list, or the members of an object.

    Raises:
        MediaRejected: the document is not valid JSON, or ends where it is nested too deeply.
        TooLarge: one of its elements has more than ``MAX_NODES`` values.
    """
    events = _events(text)
    event, value = next(events, ("end", None))
    if event == "start_array":
        yield from (Part(None, True, element) for element in _elements(events, depth=1))
    elif event == "start_map":
        yield from _members(events)
    else:
        yield Part(None, False, value)
    # what follows the document has to be blank, which the parser checks
    for _ in events:
        pass


def _events(text: io.TextIOBase) -> Iterator[Event]:
    depth = 0
    try:
        for event, value in ijson.basic_parse(_Bytes(text), use_float=True, buf_size=_BUFFER):
            depth += (event in _BEGINS) - (event in _ENDS)
            yield event, _unmarked(value) if isinstance(value, str) else value
    except (ijson.JSONError, ValueError, OverflowError) as error:
        if depth > MAX_DEPTH:
            raise MediaRejected(
                f"The JSON is nested more than {MAX_DEPTH} deep, so it is no list of captions."
            ) from error
        what = "cut short" if "premature EOF" in str(error) else "not valid"
        raise MediaRejected(f"The JSON is {what}: export or download it again.") from error


def _members(events: Iterator[Event]) -> Iterator[Part]:
    for event, key in events:
        if event == "end_map":
            return
        event, value = next(events)
        if event == "start_array":
            yield from (Part(key, True, element) for element in _elements(events, depth=2))
        else:
            yield Part(key, False, _value(event, value, events, depth=2))


def _elements(events: Iterator[Event], *, depth: int) -> Iterator[object]:
    for event, value in events:
        if event == "end_array":
            return
        yield _value(event, value, events, depth=depth + 1)


def _value(event: str, value: object, events: Iterator[Event], *, depth: int) -> object:
    """Build the value that begins with this event, ``depth`` deep in the document."""
    if event not in _BEGINS:
        return value
    top: dict[str, object] | list[object] = {} if event == "start_map" else []
    open_: list[dict[str, object] | list[object]] = [top]
    key = ""
    keys: list[str] = []
    is_deep = False
    for nodes, (inner, given) in enumerate(events):
        if nodes > 2 * MAX_NODES:
            raise TooLarge(f"An element of the JSON has more than {MAX_NODES:,} values.", limit=MAX_NODES)
        if inner == "map_key":
            key = given
            continue
        if inner in _ENDS:
            open_.pop()
            if not open_:
                break
            key = keys.pop()
            continue
        made: Any = {} if inner == "start_map" else [] if inner == "start_array" else given
        holder = open_[-1]
        if isinstance(holder, dict):
            put(holder, key, made)
        else:
            holder.append(made)
        if inner in _BEGINS:
            open_.append(made)
            keys.append(key)
            is_deep = is_deep or depth + len(open_) > MAX_DEPTH + 1
    return TOO_DEEP if is_deep else top
