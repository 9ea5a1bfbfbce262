"""A filter matches those items in the database that it matches when it is read by hand."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.factories import make_collection, make_embedding, make_model, make_picture, make_user, store

from retllm.db.enums import ItemKind
from retllm.db.maps import MapPoint
from retllm.db.plans import plan_of
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Item
from retllm.filters import And, Compare, Expression, Field, Has, Not, Or, condition, narrowed, parse, parts_of, without
from retllm.search.neighbours import nearest

_NAMES = ["2003/Italy/Münzen.jpg", "2003/Italy/b.jpg", "2004/italy/MUNZEN 2.jpg", "loose.jpg", "2003/Italy2/c.png"]
_CAMERAS = ["X100", "x100", "Canon EOS 5D", None]
_TAGS = [[], ["Sea"], ["sea", "Été"], ["hills", "a b"]]
_CELLS = [{}, {"Photographer": "Ann"}, {"photographer": "ANN ÅBERG", "Inv. no": "007"}, {"Inv. no": "12.5"}]
# more than a number of double precision can be
_CELLS.append({"Inv. no": "9" * 400})
_TIMES = [
    None,
    (datetime(1998, 1, 1), timedelta(365)),
    (datetime(1998, 5, 1), timedelta(31)),
    (datetime(1998, 5, 31, 14, 30), timedelta(seconds=1)),
    (datetime(2003, 7, 2), timedelta(1)),
]
_ON_MAP = [None, (10.0, 20.0), (50.0, 50.0), (50.0, 80.0), (90.0, 10.0)]
_PLACES = [None, (41.9, 12.5), (-17.7, 178.0), (-17.7, -179.5), (48.1, 11.6)]


def rows() -> Iterator[dict[str, Any]]:
    """Some hundred items, each value beside many others."""
    rng = np.random.default_rng(5)

    def one_of(values: list[Any]) -> Any:
        return values[rng.integers(len(values))]

    for number in range(300):
        taken, place = one_of(_TIMES), one_of(_PLACES)
        yield {
            "name": one_of(_NAMES),
            "camera": one_of(_CAMERAS),
            "tags": one_of(_TAGS),
            "further": one_of(_CELLS),
            "rating": one_of([None, 1, 3, 5]),
            "taken": taken and taken[0],
            "taken_until": taken and taken[0] + taken[1],
            "latitude": place and place[0],
            "longitude": place and place[1],
            "width": one_of([100, 200]),
            "height": one_of([100, 200]),
            "size_bytes": number,
        }


class Shelf:
    """The items in a database, and what they are without it."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.vectors = np.random.default_rng(6).normal(size=(300, 2)).astype(np.float32)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        with transaction(sessions) as session:
            user = make_user()
            collection = make_collection(user.id)
            self.model = make_model()
            items = [make_picture(collection.id, **values) for values in rows()]
            store(session, user, collection, self.model, *items)
            vectors = zip(items, self.vectors, strict=True)
            store(session, *(make_embedding(item, self.model.id, vector.tolist()) for item, vector in vectors))
            self.collection_id = collection.id
            self.ids = [item.id for item in items]
            self.values: Mapping[UUID, dict[str, Any]] = {
                key: {**values, "map": _ON_MAP[number % len(_ON_MAP)]}
                for number, (key, values) in enumerate(zip(self.ids, rows(), strict=True))
            }
            points = [(key, values["map"]) for key, values in self.values.items() if values["map"]]
            session.add_all(
                MapPoint(item_id=key, collection_id=collection.id, rank=rank, x=x, y=y)
                for rank, (key, (x, y)) in enumerate(points)
            )

    def matching(self, expression: Expression) -> set[UUID]:
        with self.sessions() as session:
            return set(session.scalars(sa.select(Item.id).where(condition(expression))))


@pytest.fixture(scope="module")
def shelf(module_database: str) -> Iterator[Shelf]:
    sessions = make_sessions(module_database)
    yield Shelf(sessions)
    sessions.kw["bind"].dispose()


def plain(text: str) -> str:
    """A text without accents and capital letters, by Python."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f").lower()


def span(text: str) -> tuple[datetime, datetime]:
    """The begin and the end of a year, month, day or minute."""
    form = {4: "%Y", 7: "%Y-%m", 10: "%Y-%m-%d", 16: "%Y-%m-%dT%H:%M"}[len(text)]
    begin = datetime.strptime(text, form)
    end = {
        4: begin.replace(year=begin.year + 1),
        7: (begin + timedelta(31)).replace(day=1),
        10: begin + timedelta(1),
        16: begin + timedelta(minutes=1),
    }[len(text)]
    return begin, end


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def holds(part: Expression, item: Mapping[str, Any]) -> bool:
    """Whether an item matches, read by hand."""
    match part:
        case And(parts):
            return all(holds(one, item) for one in parts)
        case Or(parts):
            return any(holds(one, item) for one in parts)
        case Not(inner):
            return not holds(inner, item)
        case Has(field):
            return has(field, item)
        case Compare(field, "!=", values):
            return not holds(Compare(field, "=", values), item)
        case Compare(field, "in", values):
            return any(holds(Compare(field, "=", (value,)), item) for value in values)
    if part.field == Field("map"):
        return item["map"] is not None and is_inside(tuple(map(float, part.values)), *item["map"])
    return has(part.field, item) and compares(part, item)


def has(field: Field, item: Mapping[str, Any]) -> bool:
    if field.is_column:
        return plain(field.name) in map(plain, item["further"])
    if field.name == "folder":
        return "/" in item["name"]
    if field.name == "shape":
        return True
    if field.name == "size":
        return True
    return bool(item["latitude" if field.name == "position" else field.name])


def is_inside(area: tuple[float, ...], x: float, y: float) -> bool:
    if len(area) > 4:
        # the triangle of the tests: all that is above its hypotenuse
        return x + y <= 100
    left, top, right, bottom = area
    return min(left, right) <= x <= max(left, right) and min(top, bottom) <= y <= max(top, bottom)


def compares(part: Compare, item: Mapping[str, Any]) -> bool:
    value, operator = part.values[0], part.operator
    if part.field.is_column:
        (cell,) = (cell for name, cell in item["further"].items() if plain(name) == plain(part.field.name))
        if operator in ("<", "<=", ">", ">="):
            numbers = re.fullmatch(r"[\d.]+(e\d+)?", value), cell.replace(".", "").isdigit()
            if numbers[0]:
                return numbers[1] and _ORDERS[operator](float(cell), float(value))
            return _ORDERS[operator](plain(cell), plain(value))
        return plain(value) in plain(cell) if operator == "~" else plain(value) == plain(cell)
    match part.field.name:
        case "name" | "camera":
            mine = plain(item[part.field.name])
            return plain(value) in mine if operator == "~" else plain(value) == mine
        case "folder":
            folder = item["name"].rpartition("/")[0] + "/"
            return folder.startswith(value) if operator == "~" else folder.strip("/") == value.strip("/")
        case "shape":
            shapes = {-1: "portrait", 0: "square", 1: "landscape"}
            return value == shapes[int(np.sign(item["width"] - item["height"]))]
        case "tags":
            mine, wanted = set(map(plain, item["tags"])), set(map(plain, part.values))
            return wanted <= mine if operator == "all" else bool(wanted & mine)
        case "position":
            south, west, north, east = map(float, part.values)
            inside = west <= item["longitude"] <= east if west <= east else not east < item["longitude"] < west
            return south <= item["latitude"] <= north and inside
        case "taken":
            begin, end = span(value)
            since, until = item["taken"], item["taken_until"]
            return {
                "=": begin <= since and until <= end,
                "<": until <= begin,
                "<=": until <= end,
                ">": since >= end,
                ">=": since >= begin,
            }[operator]
    mine = item[{"size": "size_bytes"}.get(part.field.name, part.field.name)]
    return _ORDERS[operator](mine, float(value))


_ORDER = ["=", "!=", "<", "<=", ">", ">="]
_TEXTS = st.sampled_from(["Munz", "MÜNZEN", "x100", "canon", "2003", "loose.jpg", "2003/Italy/Munzen.jpg", "%", "_"])


def compared(name: str, operators: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[Expression]:
    return st.builds(
        lambda operator, value: Compare(Field(name), operator, (value,)), st.sampled_from(operators), values
    )


def listed(name: str, operators: list[str], values: list[str]) -> st.SearchStrategy[Expression]:
    some = st.lists(st.sampled_from(values), min_size=1, max_size=3).map(tuple)
    return st.builds(lambda operator, chosen: Compare(Field(name), operator, chosen), st.sampled_from(operators), some)


_CELL = st.builds(
    lambda name, operator, value: Compare(Field(name, is_column=True), operator, (value,)),
    st.sampled_from(["Photographer", "inv. no", "other"]),
    st.sampled_from([*_ORDER, "~"]),
    st.sampled_from(["ann", "Ann Aberg", "7", "007", "12.5", "100", "b"]),
)
_LEAVES = st.one_of(
    compared("name", ["=", "!=", "~"], _TEXTS),
    compared("camera", ["=", "!=", "~"], _TEXTS),
    listed("camera", ["in"], ["x100", "canon eos 5d", "nikon"]),
    compared(
        "folder", ["=", "!=", "~"], st.sampled_from(["2003/", "2003/Italy", "2003/Italy/", "2004/italy", "Italy/"])
    ),
    compared("taken", _ORDER, st.sampled_from(["1998", "1998-05", "1998-05-31", "1998-05-31T14:30", "2003", "1997"])),
    compared("rating", _ORDER, st.sampled_from(["1", "3", "2.5", "3.5", "4.6", "5", "-40000", "1e300"])),
    compared("size", _ORDER, st.sampled_from(["0", "100", "299", "99.5", "9000000000000000"])),
    compared("shape", ["=", "!="], st.sampled_from(["landscape", "portrait", "square"])),
    compared("tags", ["=", "!="], st.sampled_from(["SEA", "ete", "a b", "none"])),
    listed("tags", ["any", "all"], ["sea", "Ete", "hills", "none"]),
    st.sampled_from([("40", "10", "50", "13"), ("-20", "170", "0", "-170"), ("-20", "-180", "0", "0")]).map(
        lambda box: Compare(Field("position"), "within", box)
    ),
    st.sampled_from(
        [("0", "0", "55", "60"), ("55", "60", "0", "0"), ("60", "0", "95", "20"), ("0", "100", "0", "0", "100", "0")]
    ).map(lambda area: Compare(Field("map"), "within", area)),
    _CELL,
    st.sampled_from(["camera", "tags", "rating", "taken", "position", "folder", "size", "map"]).map(
        lambda name: Has(Field(name))
    ),
    st.sampled_from(["Photographer", "INV. NO", "other"]).map(lambda name: Has(Field(name, is_column=True))),
)
_FILTERS = st.recursive(
    _LEAVES,
    lambda part: part.map(Not) | st.tuples(part, part).map(And) | st.tuples(part, part).map(Or),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expression=_FILTERS)
@example(expression=Compare(Field("inv. no", is_column=True), ">", ("12.5",)))
@example(expression=Compare(Field("inv. no", is_column=True), "<", ("1e300",)))
def test_a_filter_matches_what_it_says(shelf: Shelf, expression: Expression) -> None:
    assert shelf.matching(expression) == {key for key, item in shelf.values.items() if holds(expression, item)}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expression=_FILTERS, k=st.integers(1, 300), seed=st.integers(0, 100))
def test_a_search_finds_the_nearest_of_those_that_match(
    shelf: Shelf, expression: Expression, k: int, seed: int
) -> None:
    query = np.random.default_rng(seed).normal(size=2).astype(np.float32)
    query /= np.linalg.norm(query)
    with shelf.sessions() as session:
        found = nearest(session, shelf.model, shelf.collection_id, query, k, list(ItemKind), [condition(expression)])
    expected = [
        float(vector @ query)
        for key, vector in zip(shelf.ids, shelf.vectors, strict=True)
        if holds(expression, shelf.values[key])
    ]
    similar = [near.similarity for near in found.neighbours]
    assert similar == pytest.approx(sorted(expected, reverse=True)[:k], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("camera = X100", "ix_items_camera"),
        ("taken = 1998", "ix_items_taken"),
        ('folder ~ "2003/"', "ix_items_folder"),
        ("folder = 2003/Italy", "ix_items_folder"),
        ("rating >= 4", "ix_items_rating"),
        ("position within (40, 10, 50, 13)", "ix_items_position"),
        ("tags any (sea, sky)", "ix_items_tags"),
        ("column.Photographer = Ann", "ix_items_further"),
    ],
)
def test_an_index_serves_the_filter(shelf: Shelf, text: str, index: str) -> None:
    expression = parse(text)
    assert expression is not None
    query = sa.select(Item.id).where(
        Item.collection_id == shelf.collection_id, Item.state == "ready", condition(expression)
    )
    with shelf.sessions() as session:
        others = sa.text(
            "SELECT indexname FROM pg_indexes WHERE tablename = 'items' AND indexname NOT IN (:it, 'pk_items')"
        )
        for other in session.scalars(others, {"it": index}).all():
            session.execute(sa.text(f"DROP INDEX {other}"))
        session.execute(sa.text("SET LOCAL enable_seqscan = off"))
        assert index in str(plan_of(session, query))


_NESTED = _LEAVES | compared("folder", ["=", "~"], st.sampled_from(["2003/", "2003/Ita", "2003/Italy", "/2003/Italy/"]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=st.lists(_NESTED, min_size=1, max_size=3).map(tuple), further=_NESTED)
def test_parts_that_follow_from_a_further_one_are_left_out(
    shelf: Shelf, parts: tuple[Expression, ...], further: Expression
) -> None:
    found = narrowed(And(parts), further)
    assert shelf.matching(found) == shelf.matching(And((*parts, further)))
    assert further in parts_of(found)
    assert parse(str(found)) == found
    rest = without(found, further)
    assert set(parts_of(rest)) == set(parts_of(found)) - {further}


@pytest.mark.parametrize(
    ("old", "further", "found"),
    [
        ("", "camera = X100", "camera = X100"),
        ("folder ~ 2003/ and rating = 3", "folder ~ 2003/Italy/", 'rating = 3 and folder ~ "2003/Italy/"'),
        ("taken >= 1990 and taken < 2000", "taken = 1998", "taken = 1998"),
        ("taken >= 1998-05 and taken != 1999", "taken = 1998", "taken >= 1998-05 and taken != 1999 and taken = 1998"),
        ("camera = X100 or rating = 3", "kind = image", "(camera = X100 or rating = 3) and kind = image"),
    ],
)
def test_a_filter_is_narrowed(old: str, further: str, found: str) -> None:
    part = parse(further)
    assert part is not None
    assert str(narrowed(parse(old), part)) == str(parse(found))
