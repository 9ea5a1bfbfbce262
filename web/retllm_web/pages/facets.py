"""What the items of a list have in common: links to those with one value, and a timeline of when they were taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from retllm.db.enums import ItemKind
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.errors import InvalidInput
from retllm.filters import FIELDS, Compare, Expression, Field, Has, Not
from retllm.identity.access import collection_for
from retllm_web.actions import item_facets, item_lists
from retllm_web.actions.item_facets import Facets, Value
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages
from retllm_web.pages.formats import KINDS
from retllm_web.pages.item_list import ItemListFilters
from retllm_web.pages.taken_timeline import HEIGHT, timeline

_MAX_YEARS = 100
_ANY_CASE = ("camera", "lens", "tags")
_WITHOUT = {"rating": "not rated", "tags": "no tags", "folder": "directly here"}


@dataclass(frozen=True)
class Entry:
    """A value: a link to the items that have it, or if the filter has it already, to the list without it."""

    label: str
    count: int
    address: dict[str, str]
    is_set: bool


@dataclass(frozen=True)
class Facet:
    """The values of a field; ``others`` is the number of those that are not shown."""

    name: str
    title: str
    entries: Sequence[Entry]
    others: int = 0


@pages.get("/collections/<uuid:collection_id>/facets")
def collection_facets(collection_id: UUID) -> ResponseReturnValue:
    """Return the facets of the items in the list, as a page fragment; of a search, they lead to its form."""
    filters = ItemListFilters.of(request.args)
    filters.facets = True
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), collection_id)
        if request.args.get("of") == "search":
            shown = facets_in_form(session, found, filters.filter, {"collection": collection_id})
        else:
            shown = {"filters": filters, **facets_shown(session, found, filters)}
    return render_template("_facets.html", collection=found, **shown)


def facets_in_form(session: Session, found: Collection, text: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of facets shows in the search form with this filter; ``asked`` is its address."""
    filters = ItemListFilters.of(MultiDict({"filter": text}))
    return {"in_form": True, "asked": asked, "filters": filters, **facets_shown(session, found, filters)}


def facets_shown(session: Session, found: Collection, filters: ItemListFilters) -> dict[str, Any]:
    """Return what the template of facets shows of the items that match."""
    if filters.refused is not None:
        return {"facets": []}
    folder = _folder(filters)
    try:
        with item_lists.bounded_for(session, filters.items):
            counted = item_facets.facets_of(session, found, services().settings, filters.items, folder)
    except InvalidInput as error:
        filters.refused = error.message
        return {"facets": []}
    return {
        "facets": [facet for facet in _facets(counted, filters, folder) if facet.entries],
        "is_exact": counted.is_exact,
        "counted": counted.counted,
        "timeline": timeline(counted.taken),
        "bar_height": HEIGHT,
        "max_compared": item_lists.MAX_COMPARED,
    }


def _folder(filters: ItemListFilters) -> str:
    """Return the beginning of the folders of all items in the list."""
    return max((text.lstrip("/") for text in filters.values_of("folder", "~")), key=len, default="")


def _facets(counted: Facets, filters: ItemListFilters, folder: str) -> Iterator[Facet]:
    for name in ("camera", "lens"):
        yield _facet(name, counted, filters)
    yield _years(counted, filters)
    if not filters.values_of("folder", "="):
        yield _facet("folder", counted, filters, folder)
    for name in ("tags", "rating", "kind"):
        yield _facet(name, counted, filters)
    for number, (name, values) in enumerate(counted.columns.items()):
        field = Field(name, is_column=True)
        entries = [
            _entry(filters, _label("column", value, ""), value.count, _equals(field, value)) for value in values.shown
        ]
        yield Facet(f"column-{number}", name, entries, values.others)


def _years(counted: Facets, filters: ItemListFilters) -> Facet:
    years: Counter[int] = Counter()
    for one in counted.taken:
        years[one.year] += one.count
    entries = [
        _entry(filters, str(year), years[year], Compare(Field("taken"), "=", (f"{year:04}",)))
        for year in sorted(years, reverse=True)[:_MAX_YEARS]
    ]
    if entries and counted.undated:
        entries.append(_entry(filters, "not known", counted.undated, Not(Has(Field("taken")))))
    return Facet("taken", "Year taken", entries, max(0, len(years) - _MAX_YEARS))


def _facet(name: str, counted: Facets, filters: ItemListFilters, folder: str = "") -> Facet:
    values = counted.fields[name]
    if name == "rating":
        values.shown.sort(key=lambda value: value.text or "", reverse=True)
    entries = [
        _entry(filters, _label(name, value, folder), value.count, _part(name, value, folder)) for value in values.shown
    ]
    has_values = any(value.text is not None for value in values.shown)
    return Facet(name, FIELDS[name].title, entries if has_values else [], values.others)


def _label(name: str, value: Value, folder: str) -> str:
    if value.text is None:
        return _WITHOUT.get(name, "not known")
    if name == "folder":
        return value.text[folder.rfind("/") + 1 :]
    if name == "kind":
        return KINDS[ItemKind(value.text)][1]
    return f"{value.text} of 5" if name == "rating" else value.text


def _part(name: str, value: Value, folder: str) -> Expression:
    if name == "folder":
        return Compare(Field(name), "=", (folder,)) if value.text is None else Compare(Field(name), "~", (value.text,))
    return _equals(Field(name), value)


def _equals(field: Field, value: Value) -> Expression:
    return Not(Has(field)) if value.text is None else Compare(field, "=", (value.text,))


def _entry(filters: ItemListFilters, label: str, count: int, part: Expression) -> Entry:
    old = part if part in filters.parts else _spelled_otherwise(filters, part)
    address = filters.address_with(part) if old is None else filters.address_without(old)
    return Entry(label, count, address, is_set=old is not None)


def _spelled_otherwise(filters: ItemListFilters, part: Expression) -> Expression | None:
    """Return the part of the filter that is this one in another case, where case does not count."""
    if not isinstance(part, Compare) or not (part.field.is_column or part.field.name in _ANY_CASE):
        return None
    return next((old for old in filters.parts if str(old).casefold() == str(part).casefold()), None)
