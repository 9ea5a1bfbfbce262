"""Draw how the time of a search grows with its collection, from results of ``retllm bench coarse --json``.

``python -m retllm_tools.growth 10k.json 100k.json 1m.json > docs/figures/coarse-growth.svg``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retllm.charts import STYLE, Chart, Series, lines
from retllm.charts.elements import tag

_SERIES = {
    "platform, median": ("platform", "p50_ms"),
    "platform, p95": ("platform", "p95_ms"),
    "bare SQL with as many candidates, median": ("tuned", "p50_ms"),
}
# outside of a page there is no theme
_COLOURS = """
svg { color-scheme: only light; font-family: sans-serif; --bs-body-color: #212529; --bs-body-bg: #fff;
  --bs-border-color: #dee2e6; --bs-secondary-color: #6c757d; --bs-emphasis-color: #000; }
"""
_WIDTH, _LINE = 400, 14


def growth(results: Sequence[dict[str, Any]]) -> str:
    """Return an SVG of its own for runs with collections of different sizes."""
    runs = sorted(results, key=lambda run: int(run["size"]))
    series = [Series(name, [run["answers"][way]["all"][key] for run in runs]) for name, (way, key) in _SERIES.items()]
    sizes = [f"{run['size']:,}" for run in runs]
    title = "Time of a search for the 100 nearest"
    figure = str(lines(Chart(title, sizes, series, x_name="vectors in the collection", unit="ms", decimals=1)))
    # the legend of a page's chart is not part of its SVG
    drawing = figure[figure.index('<svg viewBox="0 0 400') : figure.rindex("</svg>") + len("</svg>")]
    names = [
        tag(
            "g",
            tag("path", d="M46,-3h27", class_=f"chart-line c{number}"),
            tag("text", name, x=79),
            transform=f"translate(0 {_LINE * number})",
        )
        for number, name in enumerate(_SERIES, 1)
    ]
    height = _LINE * (len(_SERIES) + 1)
    inner = Markup(drawing.replace("<svg ", f'<svg y="{height}" width="{_WIDTH}" height="210" ', 1))  # noqa: S704 - ours
    style = tag("style", Markup(_COLOURS + STYLE.read_text("utf-8")))  # noqa: S704 - ours
    paper = tag("rect", width="100%", height="100%", fill="#fff")
    box = f"0 0 {_WIDTH} {height + 210}"
    parts = (style, paper, *names, inner)
    return tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=box, width=2 * _WIDTH, class_="chart") + "\n"


if __name__ == "__main__":
    sys.stdout.write(growth([json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:]]))
