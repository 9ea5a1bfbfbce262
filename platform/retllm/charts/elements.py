"""Elements of HTML and SVG, with escaped content."""

from __future__ import annotations

from markupsafe import Markup


def short(value: float) -> str:
    """Format a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """Return an element with escaped content; ``class_`` is ``class``, other underscores become hyphens."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    shown = Markup("").join(Markup(' {}="{}"').format(names[key], value) for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, shown, Markup("").join(content))
