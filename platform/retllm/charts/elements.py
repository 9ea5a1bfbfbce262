"""Elements of HTML and SVG, with escaped content."""

from __future__ import annotations

from markupsafe import Markup, escape


def short(value: float) -> str:
    """Format a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """Return an element with escaped content; ``class_`` is ``class``, other underscores become hyphens."""
    # put together as plain text, since a chart has hundreds of elements and a page several charts
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{shown}>{''.join(map(escape, content))}</{name}>")  # noqa: S704 - every part is escaped
