"""What a schema can't say of requests to the API: generated bodies are mended where a rule is more than that."""

from __future__ import annotations

import io
import secrets
from typing import Any

from PIL import Image


def picture() -> bytes:
    """A picture that can be read."""
    target = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(target, "PNG")
    return target.getvalue()


def mended(path: str, body: Any, embedder: str) -> Any:
    """A generated body that keeps the schema, such that it keeps the rules too.

    Args:
        path: of the operation, as the document has it.
        body: as generated; it is left as it is.
        embedder: one that is in force.
    """
    if path.endswith("/searches"):
        return _search(body)
    if isinstance(body, dict) and body.get("password") is not None:
        # one that is not among the first to be tried
        return {**body, "password": secrets.token_urlsafe()}
    if isinstance(body, dict) and body.get("embedder") is not None:
        return {**body, "embedder": embedder}
    if isinstance(body, dict) and "settings" in body:
        return {**body, "settings": _query(body["settings"])}
    if isinstance(body, dict) and "report" in body:
        # a variant without figures of both stages was skipped; names are short, and not empty
        variants = [_named(one) | {"skipped": one.get("skipped") or "why"} for one in body["report"]["variants"]]
        return {**body, "report": {**body["report"], "variants": variants}}
    return body


def _search(body: Any) -> Any:
    """The picture is one."""
    if "picture" in body or "query" in body:
        given = {"picture": picture()} if "picture" in body else {}
        return {**body, **given, "query": _query(body.get("query", {}))}
    return _query(body)


def _query(query: dict[str, Any]) -> dict[str, Any]:
    """It is not empty, k is within this server's limit, the embedders are in force, the re-injection's fields fit."""
    asked = {**query, "text": query.get("text") or "a robin"}
    if asked["text"].strip() == "":
        asked["text"] = "a robin"
    if asked.get("k"):
        asked["k"] = 1 + asked["k"] % 200
    if asked.get("coarse"):
        # asks all of the embedders in force
        asked["coarse"] = {name: value for name, value in asked["coarse"].items() if name != "embedders"}
    asked.pop("injection", None)
    return asked


def _named(variant: dict[str, Any]) -> dict[str, Any]:
    names = ("injection", "adaptive", "parts", "groups")
    maps = {name: variant[name] for name in names if isinstance(variant.get(name), dict)}
    return variant | {name: {f"n{n}": one for n, one in enumerate(value.values())} for name, value in maps.items()}
