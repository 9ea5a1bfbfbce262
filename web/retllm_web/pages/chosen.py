"""Actions on the selected items of a collection: the form, a page to confirm it, and what to say of the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from sqlalchemy.orm import Session

from retllm.db.session import transaction
from retllm.db.tables import Collection, new_id
from retllm.errors import InvalidInput, RetllmError
from retllm.identity.access import Right, collection_for
from retllm.media.skipped import Skipped
from retllm_web.actions import chosen, item_archive, item_lists
from retllm_web.actions.chosen import Chosen, Result
from retllm_web.actions.item_archive import Wanted
from retllm_web.actions.item_changes import ItemsChange
from retllm_web.http.auth import current_actor
from retllm_web.http.errors import invalid
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form
from retllm_web.pages.item_list import ItemListFilters
from retllm_web.pages.undo import flash_deletion


class Deed(StrEnum):
    """What the buttons of the form do."""

    TAG = "tag"  # add a tag
    UNTAG = "untag"  # remove a tag
    RATE = "rate"  # set the rating, or remove it
    CAPTION = "caption"  # set the caption or text, or remove it; after a confirmation
    ADD = "add"  # add to the caption or text; after a confirmation
    REPLACE = "replace"  # find and replace in the caption or text; after a confirmation
    MOVE = "move"  # into another collection
    COPY = "copy"  # into another collection
    DELETE = "delete"  # after a confirmation


# the fields with its values, and what to say if the first one is empty
_FIELDS = {
    Deed.TAG: ("tag",),
    Deed.UNTAG: ("tag",),
    Deed.RATE: ("rating",),
    Deed.CAPTION: ("caption",),
    Deed.ADD: ("caption",),
    Deed.REPLACE: ("find", "replacement"),
    Deed.MOVE: ("to",),
    Deed.COPY: ("to",),
}
_EMPTY = {
    Deed.TAG: "Write a tag first.",
    Deed.UNTAG: "Write a tag first.",
    Deed.ADD: "Write what to add first.",
    Deed.REPLACE: "Write what to find first.",
    Deed.MOVE: "Choose a collection first.",
    Deed.COPY: "Choose a collection first.",
}
_TEXTS = (Deed.CAPTION, Deed.ADD, Deed.REPLACE)
_CONFIRMED = (*_TEXTS, Deed.DELETE)
_DONE = {
    Deed.TAG: "tagged",
    Deed.UNTAG: "changed",
    Deed.RATE: "rated",
    **dict.fromkeys(_TEXTS, "changed"),
    Deed.MOVE: "moved",
    Deed.COPY: "copied",
    Deed.DELETE: "deleted",
}
_WHY = {
    Skipped.NOT_FOUND: "no longer in this collection",
    Skipped.UNCHANGED: "nothing to change",
    Skipped.TOO_MANY_TAGS: "too many tags",
    Skipped.TEXT_NEEDED: "a text can't be empty",
    Skipped.TEXT_TOO_LONG: "the text would be longer than allowed",
    Skipped.DUPLICATE: "the other collection has the same content",
    Skipped.IN_USE: "changed by another request at the same moment, try again",
    Skipped.NOT_TRIED: "not reached",
}


@dataclass(frozen=True)
class ChosenForm:
    """What a form asks for: a deed with its values by field, on which items.

    Attributes:
        page: where the page of the list begins that the items are from.
        group: the group of near-duplicates that the items are from; None if they are from the list of items.
        into: the picture that gets the captions and tags of deleted items.
    """

    deed: Deed
    values: Mapping[str, str]
    these: Chosen
    filters: ItemListFilters
    page: UUID | None = None
    group: UUID | None = None
    into: UUID | None = None

    @classmethod
    def of(cls, collection_id: UUID) -> ChosenForm | None:
        """Return what the form of this request asks for; None if it has no items.

        Raises:
            NotFound: a key is malformed.
            InvalidInput: it lacks the value, or has no deed, or the filter can't be read.
        """
        form, filters = Form.sent(), ItemListFilters.of(request.form)
        keys = [key for key in (key_or_none(text, "item") for text in request.form.getlist("item")) if key]
        everything = request.form.get("all") == "1"
        if not (keys or everything):
            return None
        if len(keys) > chosen.MAX:
            raise InvalidInput(f"Select at most {chosen.MAX:,} items, or all that match a filter.")
        if form.text("deed") not in set(Deed):
            raise InvalidInput("Choose what to do with the items.")
        if filters.refused is not None:
            raise InvalidInput(filters.refused)
        deed = Deed(form.text("deed"))
        values = {field: _value(form, field) for field in _FIELDS.get(deed, ())}
        if deed in _EMPTY and not next(iter(values.values())):
            raise InvalidInput(_EMPTY[deed])
        upto = key_or_none(request.form.get("upto"), "item") or new_id()
        after = key_or_none(request.form.get("after"), "item")
        these = Chosen(collection_id, None if everything else keys, filters.items, after, upto)
        further = (key_or_none(request.form.get(name), name) for name in ("page", "group", "into"))
        return cls(deed, values, these, filters, *further)

    @property
    def value(self) -> str:
        """The value, the first one of several; empty if the deed has none."""
        return next(iter(self.values.values()), "")

    @property
    def everything(self) -> bool:
        """Return whether it is about all items that match the filters."""
        return self.these.keys is None

    def count(self, session: Session, collection: Collection) -> tuple[int, bool]:
        """Return the number of the items, and whether there may be more."""
        if self.these.keys is not None:
            return len(self.these.keys), False
        settings = services().settings
        return item_lists.count(session, collection, settings, self.these.filters, after=self.these.after)

    def do(self) -> Result:
        """Do it with at most ``chosen.MAX`` items."""
        actor = current_actor()
        if self.deed is Deed.DELETE:
            return chosen.delete(actor, self.these, into=self.into)
        if self.deed in (Deed.MOVE, Deed.COPY):
            return chosen.transfer(actor, self.these, self.target(), moves=self.deed is Deed.MOVE)
        return chosen.change(actor, self.these, self._change().given())

    def target(self) -> UUID:
        """Return the key of the other collection.

        Raises:
            InvalidInput: it is malformed.
        """
        try:
            return UUID(self.value)
        except ValueError as error:
            raise InvalidInput("Choose a collection first.") from error

    def _change(self) -> ItemsChange:
        values: Mapping[Deed, Mapping[str, Any]] = {
            Deed.TAG: {"add_tags": [self.value]},
            Deed.UNTAG: {"remove_tags": [self.value]},
            Deed.RATE: {"rating": self.value or None},
            Deed.CAPTION: {"text": self.value or None},
            Deed.ADD: {"add_text": self.value},
            Deed.REPLACE: {"replace_text": self.values},
        }
        try:
            return ItemsChange(**values[self.deed])
        except ValidationError as error:
            raise invalid(error) from error

    def fields(self) -> list[tuple[str, str]]:
        """Return the hidden fields of the form that confirms it."""
        sent = [("deed", self.deed.value), ("upto", str(self.these.upto)), ("confirmed", "1")]
        sent += self.filters.address().items()
        sent += self.values.items()
        further = {"after": self.these.after, "page": self.page, "group": self.group, "into": self.into}
        sent += ((name, str(key)) for name, key in further.items() if key is not None)
        return sent + ([("all", "1")] if self.everything else [("item", str(key)) for key in self.these.keys or ()])

    def back(self) -> str:
        """Return the address of the list that the form is on."""
        return _list_address(self.these.collection_id, self.filters, self.page, self.group)


def _value(form: Form, field: str) -> str:
    """Return the value of a field; spaces around what is found and replaced are a part of it."""
    text = form.text(field)
    return str(form.values.get(field, "")) if field in _FIELDS[Deed.REPLACE] else text


def _list_address(
    collection_id: UUID, filters: ItemListFilters, page: UUID | None = None, group: UUID | None = None
) -> str:
    if group is not None:
        return url_for("pages.duplicates", collection_id=collection_id, at=group)
    address: dict[str, Any] = {**filters.address()}
    return url_for("pages.collection", collection_id=collection_id, after=page, _anchor="items", **address)


def _here(collection_id: UUID, filters: ItemListFilters) -> str:
    """Return the address of the list that the form of this request is on."""
    page, group = (key_or_none(request.form.get(name), name) for name in ("page", "group"))
    return _list_address(collection_id, filters, page, group)


@pages.post("/collections/<uuid:collection_id>/items/chosen")
def change_chosen(collection_id: UUID) -> ResponseReturnValue:
    """Do something with the selected items; what can't be undone or concerns all that match is confirmed first."""
    here = _here(collection_id, ItemListFilters.of(request.form))
    with transaction(services().sessions) as session:
        collection_for(session, current_actor(), collection_id, Right.CHANGE)
    try:
        form = ChosenForm.of(collection_id)
        if form is None:
            flash("Select items first, or all that match the filter.", "info")
            return redirect(here)
        if (form.everything or form.deed in _CONFIRMED) and request.form.get("confirmed") != "1":
            return confirm(form)
        result = form.do()
    except RetllmError as error:
        return refused(error, here)
    text = _done_text(form.deed, result)
    if result.done:
        flash_deletion(text, collection_id, result.trashed)
    else:
        flash(text, "info")
    if result.skipped:
        flash(_skipped_text(form.deed, result), "warning")
    if result.error is not None:
        flash(f"Then it ended: {result.error.message}", "danger")
    if form.everything and result.next is not None:
        return confirm(replace(form, these=replace(form.these, after=result.next)))
    return redirect(form.back())


@pages.post("/collections/<uuid:collection_id>/items/download")
def download_chosen(collection_id: UUID) -> ResponseReturnValue:
    """Return the selected items, or all that match the filter, as a ZIP."""
    filters = ItemListFilters.of(request.form)
    here = _here(collection_id, filters)
    with transaction(services().sessions) as session:
        collection_for(session, current_actor(), collection_id)
    keys = [key for key in (key_or_none(text, "item") for text in request.form.getlist("item")) if key]
    if request.form.get("all") == "1":
        wanted = Wanted([collection_id], filters=filters.items)
    elif keys:
        wanted = Wanted([collection_id], keys)
    else:
        flash("Select items first, or all that match the filter.", "info")
        return redirect(here)
    try:
        if filters.refused is not None:
            raise InvalidInput(filters.refused)
        return item_archive.send(current_actor(), wanted)
    except RetllmError as error:
        return refused(error, here)


def confirm(form: ChosenForm) -> ResponseReturnValue:
    """Return the page that asks whether to do it.

    Raises:
        NotFound, Forbidden: this account may not change one of the collections.
    """
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), form.these.collection_id, Right.CHANGE)
        number, more = form.count(session, collection)
        target = None
        if form.deed in (Deed.MOVE, Deed.COPY):
            target = collection_for(session, current_actor(), form.target(), Right.CHANGE)
        into = chosen.names_of(session, [form.into], collection.id).get(form.into) if form.into else None
    shown = {"number": number, "more": more, "limit": chosen.MAX, "back": form.back(), "target": target, "into": into}
    return render_template("chosen_confirm.html", form=form, collection=collection, **shown)


def _done_text(deed: Deed, result: Result) -> str:
    number, done = len(result.done), "moved to the trash" if result.trashed else _DONE[deed]
    if not number:
        return f"No item was {done}."
    return f"1 item was {done}." if number == 1 else f"{number:,} items were {done}."


def _skipped_text(deed: Deed, result: Result) -> str:
    same = {Skipped.DUPLICATE: "the collection has the same text"} if deed in _TEXTS else {}
    return skipped_text(result, _DONE[deed], {**_WHY, **same})


def skipped_text(result: Result, done: str, why: Mapping[Skipped, str]) -> str:
    """Return how many items were skipped, and why."""
    reasons = Counter(result.skipped.values())
    told = [why.get(reason, reason.value) for reason in reasons]
    if len(told) > 1:
        told = [f"{words} ({number:,})" for words, number in zip(told, reasons.values(), strict=True)]
    return f"{reasons.total():,} {'was' if reasons.total() == 1 else 'were'} not {done}: {'; '.join(told)}."
