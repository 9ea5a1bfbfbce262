"""The pages of the app, found from its map of addresses, so that a new one can't be forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Flask


def addresses(app: Flask, keys: Mapping[str, Sequence[str]]) -> list[str]:
    """The address of every page that can be opened; one with one argument comes once for each of its ``keys``.

    Raises:
        KeyError: a page has an argument that ``keys`` says nothing of: say what it may be.
    """
    found = []
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith("pages.") or "GET" not in (rule.methods or ()):
            continue
        rounds = max((len(keys[name]) for name in rule.arguments), default=1) if len(rule.arguments) == 1 else 1
        for number in range(rounds):
            path = rule.rule
            for name in rule.arguments:
                path = path.replace(f"<uuid:{name}>", keys[name][number]).replace(
                    f"<string:{name}>", keys[name][number]
                )
            found.append(path)
    return sorted(set(found))
