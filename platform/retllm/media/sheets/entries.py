"""What an element of JSON says: a row of a sheet, or why it is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from retllm.media.sheets.column_names import CAPTIONS, FILES, role
from retllm.media.sheets.columns import file_in
from retllm.media.sheets.documents import MAX_DEPTH, TOO_DEEP
from retllm.media.sheets.references import is_url, names_a_picture
from retllm.media.sheets.rows import Reason, Record, problem

OBJECT_LIKE = '{"file": ..., "caption": ...}'
"""What a row looks like."""
CONVERSATION = "conversations"
"""The field of a conversation on a picture, as LLaVA is trained with."""
# who answers in it
_ANSWERING = ("gpt", "assistant")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an element is no row; the words continue "Row 7"."""

    reason: Reason
    words: str


Entry = Mapping[str, object] | Refused
NESTED = Refused(Reason.UNREADABLE, f" is nested more than {MAX_DEPTH} deep, so it is no row of a sheet.")
NESTED_LINE = Refused(Reason.UNREADABLE, " is nested too deeply, so it is no row of a sheet.")


def record_of(number: int, entry: Entry) -> Record:
    """Return an element as the row of this number."""
    if isinstance(entry, Refused):
        return Record(number, problem=problem(entry.reason, f"Row {number}{entry.words}"))
    return Record(number, entry)


def entry_of(value: object) -> Entry:
    """Return what an element says."""
    if value is TOO_DEEP:
        return NESTED
    if not isinstance(value, dict):
        return Refused(Reason.UNREADABLE, f" is not an object like {OBJECT_LIKE}.")
    answers = _answers(value)
    if answers is None or len(answers) == 1:
        return with_answer(value)
    words = f" is a conversation with {len(answers):,} answers, as LLaVA is trained with, and no caption."
    return Refused(Reason.TEXT, words)


def _answers(value: Mapping[str, object]) -> list[object] | None:
    """Return the answers of a conversation on a picture, as LLaVA is trained with; None if the value is none."""
    turns = value.get(CONVERSATION)
    if not isinstance(turns, list) or not turns or any(role(name) in CAPTIONS for name in value):
        return None
    return [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in _ANSWERING]


def with_answer(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return an object with the single answer of its conversation as the caption; itself if it has none.

    One answer of several says nothing without its question.
    """
    answers = _answers(value)
    if answers is None or len(answers) != 1:
        return value
    return {name: value[name] for name in value if name != CONVERSATION} | {"caption": answers[0]}


def has_captions(entry: Entry) -> bool:
    """Return whether a row has a column of captions, maybe without a value."""
    return not isinstance(entry, Refused) and any(role(name) in CAPTIONS for name in entry)


def names_a_file(value: Mapping[str, object]) -> bool:
    """Return whether an object has the name of a picture in one of its columns, other than an address."""
    files = [file_in(inner) for name, inner in value.items() if role(name) in FILES]
    return any_picture(file for file in files if not is_url(file))


def any_picture(values: Iterable[object]) -> bool:
    """Return whether one of these values is the name of a picture."""
    return any(isinstance(value, str) and names_a_picture(value) for value in values)
