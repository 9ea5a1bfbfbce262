"""Forms whose answers are pages: confirmations, a message that can be undone, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from playwright.sync_api import Page
from tests.functional.sample_data import SampleData

Fields: TypeAlias = Mapping[str, str | list[str]]
_SEND = """([action, fields]) => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = action;
    const add = (name, value) => {
        const field = form.appendChild(document.createElement("input"));
        [field.name, field.value] = [name, value];
    };
    add("csrf_token", document.querySelector("[name=csrf_token]").value);
    for (const [name, values] of Object.entries(fields)) for (const value of [values].flat()) add(name, value);
    document.body.append(form);
    form.submit();
}"""


@dataclass(frozen=True)
class SentForm:
    """A form: the page that it is on, the path that it is sent to, and its fields."""

    page: str
    action: str
    fields: Fields

    def send(self, page: Page) -> None:
        """Open its page and send it."""
        page.goto(self.page)
        with page.expect_navigation():
            page.evaluate(_SEND, [self.action, self.fields])


def sample_forms(data: SampleData) -> dict[str, SentForm]:
    """Return forms by what they do; none changes anything, except for ``undo``, which moves items to the trash.

    Press its button before it is sent again.
    """
    here, trash = f"/collections/{data.photographs}", f"/trash?collection={data.photographs}"
    group = f"{here}/duplicates/{data.alike}/keep"
    listed = f"{here}?filter=column.Photographer+%3D+Ann"
    on_items = {name: SentForm(listed, f"{here}/items/chosen", fields) for name, fields in _on_items(data).items()}
    change = {"name": "a cat", "taken": "in winter", "rating": "9"}
    question = {"whole": "1", "collection": data.photographs, "text": "a cat", "k": "0", "filter": "taken >"}
    return on_items | {
        "empty-trash": SentForm(trash, f"{here}/trash", {"deed": "empty"}),
        "delete-for-good": SentForm(trash, f"{here}/trash", {"deed": "remove", "item": [data.trashed]}),
        "keep-of-group": SentForm(f"{here}/duplicates", group, {"keep": data.photograph, "merge": "1"}),
        "refused-change": SentForm(f"/items/{data.photograph}", f"/items/{data.photograph}/change", change),
        "refused-search": SentForm(f"/search?collection={data.photographs}", "/search", question),
        "refused-member": SentForm(f"{here}/people", f"{here}/people", {"name": "nobody", "role": "viewer"}),
        "refused-collection": SentForm("/collections", "/collections", {"name": "Photographs"}),
    }


def _on_items(data: SampleData) -> dict[str, Fields]:
    chosen = {"filter": "column.Photographer = Ann", "item": data.selected}
    matching = {"filter": "column.Photographer = Ann", "all": "1"}
    return {
        "delete": {"deed": "delete", **chosen},
        "delete-all": {"deed": "delete", "all": "1"},
        "move": {"deed": "move", "to": data.notes, **matching},
        "copy": {"deed": "copy", "to": data.notes, **matching},
        "tag": {"deed": "tag", "tag": "shown", **matching},
        "untag": {"deed": "untag", "tag": "shown", **matching},
        "rate": {"deed": "rate", "rating": "4", **matching},
        "set-captions": {"deed": "caption", "caption": "a picture by Ann", **chosen},
        "remove-captions": {"deed": "caption", "caption": "", **chosen},
        "add-to-captions": {"deed": "add", "caption": ", by Ann", **chosen},
        "replace-in-captions": {"deed": "replace", "find": "part", "replacement": "detail", **chosen},
        "without-a-tag": {"deed": "tag", "tag": "", **chosen},
        "undo": {"deed": "delete", "confirmed": "1", **chosen},
    }
