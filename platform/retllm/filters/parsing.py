"""Read a filter."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, UnexpectedToken

from retllm.errors import InvalidInput
from retllm.filters.conditions import condition
from retllm.filters.expression import And, Compare, Expression, Field, Has, Not, Or

MAX_CHARS = 4_000
"""Characters of a filter at most."""
_MAX_VALUES = 500
_MAX_DEPTH = 50
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_TERMS = {
    "OPERATOR": "=, !=, <, <=, >, >=, ~",
    "SEVERAL": '"in", "any", "all", "within"',
    "WORD": "a field",
    "QUOTED": "a value in quotes",
    "BARE": "a value",
    "LPAR": '"("',
    "RPAR": '")"',
    "COMMA": "a comma",
    "_AND": '"and"',
    "_OR": '"or"',
    "_NOT": '"not"',
    "_HAS": '"has"',
    "_COLUMN": '"column."',
    "$END": "the end",
}


def parse(text: str) -> Expression | None:
    """Read a filter; an empty one is None.

    Raises:
        InvalidInput: it can't be read, names a field that is not there, or compares one with what it can't be.
    """
    if len(text) > MAX_CHARS:
        raise InvalidInput(
            f"A filter has at most {MAX_CHARS:,} characters; this one has {len(text):,}.", field="filter"
        )
    if not text.strip():
        return None
    if _NO_TEXT.search(text):
        raise InvalidInput(
            "The filter contains a character that no text has: NUL or half a surrogate pair.", field="filter"
        )
    try:
        found = cast(Expression, _parser().parse(text))
    except UnexpectedInput as error:
        raise InvalidInput(_told(text, error), field="filter") from error
    _check(found)
    return found


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = files("retllm.filters").joinpath("grammar.lark").read_text("utf-8")
    # parts are made while they are read, so that no depth of a filter is a depth of calls
    return Lark(grammar, parser="lalr", transformer=_Reader())


def _check(whole: Expression) -> None:
    """Check how large a filter is, and each comparison."""
    waiting: list[tuple[Expression, int]] = [(whole, 1)]
    count = 0
    while waiting:
        part, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise InvalidInput(f"A filter has at most {_MAX_DEPTH} levels within each other.", field="filter")
        match part:
            case Not(inner):
                waiting.append((inner, depth + 1))
            case And(parts) | Or(parts):
                waiting += ((inner, depth + 1) for inner in parts)
            case _:
                condition(part)
                count += 1 if isinstance(part, Has) else len(part.values)
                if count > _MAX_VALUES:
                    raise InvalidInput(f"A filter has at most {_MAX_VALUES} values.", field="filter")


def _told(text: str, error: UnexpectedInput) -> str:
    """Return where a filter can't be read, and what could stand there."""
    expected = error.accepts or error.expected if isinstance(error, UnexpectedToken) else getattr(error, "allowed", ())
    terms = sorted({_TERMS[name] for name in expected or () if name in _TERMS})
    place = error.pos_in_stream if error.pos_in_stream is not None else -1
    is_end = place < 0 or (isinstance(error, UnexpectedToken) and error.token.type == "$END")
    where = "at its end" if is_end else f"at character {place + 1}, {_around(text, place)!r}"
    if not is_end and text[place] == '"':
        return f"The filter can't be read {where}: the quotation mark has no second one."
    could = f": {' or '.join(terms)} could stand there" if terms else ""
    return f"The filter can't be read {where}{could}."


def _around(text: str, place: int) -> str:
    return text[place : place + 20]


class _Reader(Transformer[Token, Any]):
    """Makes the parts of a filter from what the parser found."""

    def either(self, parts: list[Expression]) -> Expression:
        return Or(tuple(parts))

    def both(self, parts: list[Expression]) -> Expression:
        return And(tuple(parts))

    def negation(self, parts: list[Expression]) -> Expression:
        return Not(parts[0])

    def has(self, parts: list[Field]) -> Expression:
        return Has(parts[0])

    def one(self, parts: list[Any]) -> Expression:
        field, operator, value = parts
        return Compare(field, str(operator), (value,))

    def several(self, parts: list[Any]) -> Expression:
        field, operator, *values = parts
        return Compare(field, str(operator).lower(), tuple(values))

    def known(self, parts: list[Token]) -> Field:
        return Field(str(parts[0]).lower())

    def column(self, parts: list[Token]) -> Field:
        return Field(_text(parts[0]), is_column=True)

    def value(self, parts: list[Token]) -> str:
        return _text(parts[0])


def _text(token: Token) -> str:
    return _ESCAPED.sub(r"\1", token[1:-1]) if token.type == "QUOTED" else str(token)
