"""Corrects generated request bodies that match the schema but break rules that a schema can't express."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable
from typing import Any

from PIL import Image


def picture() -> bytes:
    """Return a valid picture."""
    target = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(target, "PNG")
    return target.getvalue()


def corrected(path: str, body: Any, embedder: str, account: str) -> Any:
    """Return a body that follows all rules of the API.

    Args:
        path: the path of the operation in the document.
        body: the generated body, which matches the schema; it is not modified.
        embedder: the name of an active embedder.
        account: the name of an account.
    """
    for end, correct in _BY_PATH.items():
        if path.endswith(end):
            return correct(body)
    if path.endswith("/items/{item_id}"):
        # a time is no pattern of JSON Schema, and no two items have one text
        valid = {"name": "robin.png", "text": f"a robin {secrets.token_hex(8)}", "taken": "1998-05"}
        return {**body, **{name: value for name, value in valid.items() if name in body}}
    if path.endswith("/members"):
        return {**body, "name": account}
    if path.endswith("/users"):
        # letters of any script are no pattern of JSON Schema
        body = {**body, "name": f"Jörg-{secrets.token_hex(8)}"}
    if isinstance(body, dict) and body.get("password") is not None:
        # one that is not easy to guess
        return {**body, "password": secrets.token_urlsafe()}
    if isinstance(body, dict) and body.get("embedder") is not None:
        return {**body, "embedder": embedder}
    if isinstance(body, dict) and "settings" in body:
        return {**body, "settings": _query(body["settings"])}
    if isinstance(body, dict) and "report" in body:
        # a variant without measurements of both stages was skipped; names must be short and not empty
        variants = [_valid_names(one) | {"skipped": one.get("skipped") or "why"} for one in body["report"]["variants"]]
        return {**body, "report": {**body["report"], "variants": variants}}
    return body


def _many(body: Any) -> Any:
    """Choose the items in one of both ways, by a filter that none of the scene matches."""
    named = {"items": body["items"]} if body.get("items") else {"filter": 'name = "none has this name"'}
    valid = {**{name: value for name, value in body.items() if name not in ("items", "filter")}, **named}
    if valid.get("change", {}).get("taken"):
        valid["change"] = {**valid["change"], "taken": "1998-05"}
    return valid


def _link(body: Any) -> Any:
    """Let it end as the settings allow."""
    return {**body, "days": 1 + body["days"] % 365} if body.get("days") else body


def _restored(body: Any) -> Any:
    """Choose the items in one of both ways."""
    return {"items": body["items"]} if body.get("items") else {"all": True}


def _search(body: Any) -> Any:
    """Insert a valid picture and correct the query."""
    if "picture" in body or "query" in body:
        pictures = {"picture": picture()} if "picture" in body else {}
        return {**body, **pictures, "query": _query(body.get("query", {}))}
    return _query(body)


def _search_of_several(body: Any) -> Any:
    """Like ``_search``, of all collections."""
    body = _search(body)
    if "query" in body:
        return {**body, "query": {**body["query"], "collections": "all"}}
    return {**body, "collections": "all"}


def _query(query: dict[str, Any]) -> dict[str, Any]:
    """Add a text, limit k, use all active embedders and the main scorer, and remove the re-injection settings."""
    valid = {**query, "text": query.get("text") or "a robin"}
    if valid["text"].strip() == "":
        valid["text"] = "a robin"
    if valid.get("filter"):
        valid["filter"] = 'not has taken or folder ~ "Italy/"'
    if valid.get("k"):
        valid["k"] = 1 + valid["k"] % 200
    if valid.get("coarse"):
        # all active embedders
        valid["coarse"] = {name: value for name, value in valid["coarse"].items() if name != "embedders"}
    valid.pop("injection", None)
    # none of another name is configured
    valid.pop("scorer", None)
    return valid


def _valid_names(variant: dict[str, Any]) -> dict[str, Any]:
    names = ("injection", "adaptive", "parts", "groups")
    maps = {name: variant[name] for name in names if isinstance(variant.get(name), dict)}
    return variant | {name: {f"n{n}": one for n, one in enumerate(value.values())} for name, value in maps.items()}


_BY_PATH: dict[str, Callable[[Any], Any]] = {
    "v1/searches": _search_of_several,
    "/trash/restore": _restored,
    "/links": _link,
    "/searches": _search,
    # no longer than the rest of the file
    "/tus/{large_file_id}": lambda _: b"a",
    # an address is no pattern of JSON Schema
    "/imports": lambda body: {**body, "address": "/srv/pictures"},
    **dict.fromkeys(("/items/change", "/items/delete", "/items/move", "/items/copy", "/items/download"), _many),
}
