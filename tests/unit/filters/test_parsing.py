"""Filters are read as people write them, are written as they are read, and say what can't be read in them."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retllm.errors import InvalidInput
from retllm.filters import And, Compare, Expression, Field, Has, Not, Or, parse
from retllm.filters.fields import FIELDS, OPERATORS, FieldKind

_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def _text(**options: int) -> st.SearchStrategy[str]:
    return st.text(_CHARACTERS, **options)


_VALUES = {
    FieldKind.TEXT: _text(min_size=1, max_size=20),
    FieldKind.PATH: _text(max_size=20),
    FieldKind.NUMBER: st.integers(-(10**9), 10**9).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr),
    FieldKind.TIME: st.dates(max_value=date(9998, 1, 1)).map(str)
    | st.integers(1, 9998).map("{:04}".format)
    | st.datetimes(max_value=datetime(9998, 1, 1)).map(lambda time: time.isoformat(timespec="minutes")),
    FieldKind.TAGS: _text(min_size=1, max_size=20),
    FieldKind.COLUMN: _text(max_size=20),
}


@st.composite
def comparisons(draw: st.DrawFn) -> Expression:
    """A comparison of a field, or of a column of a sheet, with what it may be compared with."""
    if draw(st.booleans()):
        field, kind, words = Field(draw(_text(min_size=1, max_size=10)), is_column=True), FieldKind.COLUMN, ()
    else:
        name = draw(st.sampled_from(sorted(FIELDS)))
        field, kind, words = Field(name), FIELDS[name].kind, FIELDS[name].words
    operator = draw(st.sampled_from((*OPERATORS[kind], "has")))
    if operator == "has":
        return Has(field)
    if kind is FieldKind.PLACE:
        return Compare(field, operator, ("-10", "20.5", "10", "-20"))
    if kind is FieldKind.MAP:
        return Compare(
            field, operator, ("10", "20.5", "30", "40", "50", "60") if draw(st.booleans()) else ("1", "2", "3", "4")
        )
    values = st.sampled_from(words) if words else _VALUES[kind]
    count = draw(st.integers(1, 3)) if operator in ("in", "any", "all") else 1
    return Compare(field, operator, tuple(draw(values) for _ in range(count)))


expressions = st.recursive(
    comparisons(),
    lambda part: (
        part.map(Not)
        | st.lists(part, min_size=2, max_size=3).map(lambda parts: And(tuple(parts)))
        | st.lists(part, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts)))
    ),
    max_leaves=8,
)


# the first text loads all characters
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(expressions)
def test_a_filter_is_read_as_what_it_was_written_from(expression: Expression) -> None:
    assert parse(str(expression)) == expression


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (
            'taken >= 1998 and folder ~ "Italy/" and camera = "X100"',
            'taken >= 1998 and folder ~ "Italy/" and camera = X100',
        ),
        ("NOT Has TAKEN or(rating>=4)", "not has taken or rating >= 4"),
        ("not (tags any (a,'b') or kind = Text)", "not (tags any (a, \"'b'\") or kind = Text)"),
        ('column."Inv. no."=7', 'column."Inv. no." = 7'),
        ("column.and = x", 'column."and" = x'),
        ("name = android and title = origin", "name = android and title = origin"),
        ('name = "and"', 'name = "and"'),
        (r'name = "a \"b\" \\ c"', r'name = "a \"b\" \\ c"'),
        ("name = Münze", "name = Münze"),
        ("((rating = 1) and (rating = 2 or rating = 3))", "rating = 1 and (rating = 2 or rating = 3)"),
        ("rating = 1 or rating = 2 and rating = 3", "rating = 1 or (rating = 2 and rating = 3)"),
    ],
)
def test_ways_to_write_the_same(text: str, written: str) -> None:
    assert str(parse(text)) == written
    assert parse(written) == parse(text)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_filter_is_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camra = X100", "no field 'camra'. Did you mean camera?"),
        ("taken ~ 5", "taken can't be compared with ~, only =, !=, in, <, <=, >, >="),
        ("taken = 98", "taken can't be compared with '98', which is not a time such as 1998, 1998-05"),
        ("taken = 1998-13", "which is not a time that exists"),
        ("taken = 1999-02-29", "which is not a time that exists"),
        ("taken <= 9999", "which is not a time that exists"),
        ("rating > high", "which is not a number"),
        ("rating > nan", "which is not a number"),
        ("kind = cat", "which is not one of image, text, image+text"),
        ("position within (1, 2, 3)", "position within needs four numbers"),
        ("map within (1, 2)", "map within needs left, top, right, bottom of a box, or x and y of 3 to 100 points"),
        ("map within (1, 2, 3, 4, 5)", "map within needs left, top, right, bottom of a box"),
        (f"map within ({', '.join(['1'] * 202)})", "map within needs left, top, right, bottom of a box"),
        ("map within (1, 2, 3, 101)", "which is not between 0 and 100"),
        ("map = 1", "map can't be compared with =, only within"),
        ("position within (3, 2, 1, 4)", "needs south before north"),
        ("position within (-91, 2, 1, 4)", "which is not between -90 and 90 degrees"),
        ("position = 5", "position can't be compared with =, only within"),
        ("name = a b", 'can\'t be read at character 10, \'b\': "and" or "or" or the end could stand there'),
        ('name = "a', "the quotation mark has no second one"),
        ("name =", "can't be read at its end"),
        ("(name = a", "can't be read at its end"),
        ("name = a)", "can't be read at character 9"),
        ("name", "can't be read at its end"),
        ("= a", "can't be read at character 1"),
        ("name = a or", "can't be read at its end"),
        ("tags any ()", "can't be read at character 11"),
        ("name = 'a\0b'", "a character that no text has"),
        ("name = '\ud800'", "a character that no text has"),
        ("x" * 5000, "at most 4,000 characters"),
        ("not " * 60 + "has name", "at most 50 levels"),
        ("rating in (" + "1," * 600 + "1)", "at most 500 values"),
    ],
)
def test_what_is_wrong_is_told(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert said in caught.value.message
    assert caught.value.detail["field"] == "filter"


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet='()andorthsi=~<>!"\\ ,.1x', max_size=60) | st.text(max_size=60))
def test_no_text_fails_but_by_an_answer(text: str) -> None:
    try:
        found = parse(text)
    except InvalidInput:
        return
    assert found is None or parse(str(found)) == found


def test_deep_parentheses_are_read() -> None:
    assert parse("(" * 1500 + "has name" + ")" * 1500) == Has(Field("name"))
