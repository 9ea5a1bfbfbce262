"""Finds the pages of the app in its URL map, so that new pages are included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Flask


def addresses(app: Flask, keys: Mapping[str, Sequence[str]], blueprint: str = "pages") -> list[str]:
    """Return the path of every page; a page with one argument has a path for each of its ``keys``.

    With another blueprint, return all that can be read there.

    Raises:
        KeyError: a page has an argument without values in ``keys``; add them there.
    """
    found = []
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith(f"{blueprint}.") or "GET" not in (rule.methods or ()):
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
