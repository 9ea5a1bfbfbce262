"""What the address of a collection's page says about its list of items."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from werkzeug.datastructures import MultiDict

from retllm.db.enums import ItemKind
from retllm.errors import InvalidInput
from retllm.filters import Compare, Expression, Field, all_of, compares, narrowed, parse, parts_of, without
from retllm_web.actions.item_lists import IndexState, ItemFilters, Order
from retllm_web.http.paging import key_or_none
from retllm_web.pages.gallery import Size

_BOUNDS = {"taken_from": ">=", "taken_to": "<="}
_ORDER = ("=", "<", "<=", ">", ">=")


@dataclass
class ItemListFilters:
    """Which items of a collection are shown; part of the address, so that a link gives the same view.

    ``facets`` is whether the counts of their values are shown with them.
    """

    kind: ItemKind | None = None
    state: IndexState | None = None
    q: str = ""
    filter: str = ""
    sort: Order = field(default_factory=Order)
    size: Size = Size.MEDIUM
    facets: bool = False
    after: UUID | None = None
    refused: str | None = None
    expression: Expression | None = None

    @classmethod
    def of(cls, sent: MultiDict[str, str]) -> ItemListFilters:
        """Return the filters of an address or a form; an unknown kind, state, order or size is ignored.

        A filter that can't be read matches nothing, and ``refused`` says why.
        """
        kind, state = sent.get("kind", ""), sent.get("state", "")
        found = cls(
            ItemKind(kind) if kind in set(ItemKind) else None,
            IndexState(state) if state in set(IndexState) else None,
            sent.get("q", "").replace("\0", "").strip()[:200],
            sent.get("filter", "").strip(),
            facets=sent.get("facets") == "1",
            after=key_or_none(sent.get("after"), "page"),
        )
        with suppress(ValueError):
            found.sort = Order.of(sent.get("sort", ""))
        with suppress(ValueError):
            found.size = Size(sent.get("size", ""))
        try:
            found.expression = parse(found.filter)
            found._take_bounds(sent)
        except InvalidInput as error:
            found.refused = error.message
        return found

    def _take_bounds(self, sent: MultiDict[str, str]) -> None:
        """Replace the times of the filter by those of the two fields, if these were sent."""
        if not _BOUNDS.keys() & sent.keys():
            return
        parts = [part for part in self.parts if not compares(part, "taken", _ORDER)]
        given = [(operator, sent.get(name, "").strip()) for name, operator in _BOUNDS.items()]
        parts += [Compare(Field("taken"), operator, (text,)) for operator, text in given if text]
        self.filter = str(all_of(parts) or "")
        self.expression = parse(self.filter)

    @property
    def any(self) -> bool:
        """Return whether any filter is set."""
        return bool(self.kind or self.state or self.q or self.filter)

    @property
    def items(self) -> ItemFilters:
        """The filters of the list."""
        return ItemFilters(self.kind, self.state, self.q, self.expression)

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The parts of the filter that all must match."""
        return parts_of(self.expression)

    def values_of(self, name: str, *operators: str) -> list[str]:
        """Return what the filter compares a field with by these operators."""
        return [part.values[0] for part in self.parts if compares(part, name, operators)]

    def address(self, **other: str | None) -> dict[str, str]:
        """Return the filters as arguments for ``url_for``, some of them replaced."""
        values: dict[str, str | None] = {"kind": self.kind, "state": self.state, "q": self.q, "filter": self.filter}
        if self.sort != Order():
            values["sort"] = str(self.sort)
        if self.size is not Size.MEDIUM:
            values["size"] = self.size
        if self.facets:
            values["facets"] = "1"
        return {name: str(value) for name, value in (values | other).items() if value}

    def address_with(self, *parts: Expression) -> dict[str, str]:
        """Return the arguments for ``url_for`` of the list with further parts of the filter."""
        expression = self.expression
        for part in parts:
            expression = narrowed(expression, part)
        return self.address(filter=str(expression or ""))

    def address_without(self, part: Expression) -> dict[str, str]:
        """Return the arguments for ``url_for`` of the list without a part of the filter."""
        return self.address(filter=str(without(self.expression, part) or ""))
