"""The result of an evaluation as one HTML page that needs nothing else: tables, and plots by plotly's own script."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retllm.evaluation import published

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --fore: #1f2328; --line: #d0d7de; --soft: #59636e; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --fore: #e6e9ed; --line: #3a4149; --soft: #a0a9b3; } }
body { background: var(--back); color: var(--fore); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
p, caption { color: var(--soft); text-align: left; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem .3rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.plot { height: 26rem; margin: 1rem 0; }
"""

_SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const fore = dark.matches ? "#e6e9ed" : "#1f2328", line = dark.matches ? "#3a4149" : "#d0d7de";
  for (const [id, figure] of Object.entries(figures)) {
    const axis = (own) => ({ gridcolor: line, zerolinecolor: line, automargin: true, ...own });
    const layout = { ...figure.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: fore }, xaxis: axis(figure.layout.xaxis), yaxis: axis(figure.layout.yaxis),
      margin: { t: 30, r: 20 }, legend: { orientation: "h", y: 1.12 } };
    const data = figure.data.map((one) => one.error_y ? { ...one, error_y: { ...one.error_y, color: fore } } : one);
    Plotly.react(id, data, layout, { responsive: true, displaylogo: false });
  }
}
dark.addEventListener("change", draw);
draw();
"""

#: told apart in both colour schemes and by people who see few colours (Okabe and Ito)
_COARSE, _FINE, _PAPER = "#8c8c8c", "#0072b2", "#d55e00"


def write_page(result: Json, path: Path) -> None:
    """Write the page of a report (see :mod:`retllm.evaluation.report`)."""
    from plotly.offline import get_plotlyjs

    figures: dict[str, Json] = {}
    body = [f"<h1>{_escaped(result['benchmark'])}, seed {result['seed']}</h1>", f"<p>{_models(result['models'])}</p>"]
    for section in dict.fromkeys(variant["section"] for variant in result["variants"]):
        variants = [variant for variant in result["variants"] if variant["section"] == section]
        body += _section(result["benchmark"], section, variants, figures)
    shown = json.dumps(figures).replace("<", "\\u003c")
    path.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>retllm eval {_escaped(result['benchmark'])}</title>\n<style>{_STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n" + "\n".join(body) + "\n"
        f'<script type="application/json" id="figures">{shown}</script>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _escaped(value: object) -> str:
    return html.escape("" if value is None else str(value))


def _models(models: Json) -> str:
    return (
        f"Coarse stage: {_escaped(models['embedder'])}. Fine stage: {_escaped(models['scorer'])}, prompts version "
        f"{_escaped(models['prompt_version'])}, {_escaped(models['dtype'])} on {_escaped(models['device'])}."
    )


def _section(benchmark: str, section: str, variants: Sequence[Json], figures: dict[str, Json]) -> list[str]:
    measured = [variant for variant in variants if "skipped" not in variant]
    body = [f"<h2>{_escaped(section)}</h2>", _variants_table(variants)]
    figures[f"recall-{section}"] = _recall_figure(benchmark, section, measured)
    body.append(_plot(f"recall-{section}", f"{measure(section)} of every variant in {section}, with 95 % intervals"))
    sizes = [variant for variant in measured if variant is measured[0] or only_size(variant, measured[0])]
    if len(sizes) > 1:
        figures[f"cost-{section}"] = _cost_figure(sizes, measure(section))
        body.append(_plot(f"cost-{section}", f"{measure(section)} in {section} against the pairs judged for a query"))
    first = measured[0]
    if "parts" in first:
        figures[f"parts-{section}"] = _parts_figure(first["parts"])
        body.append(_plot(f"parts-{section}", f"The parts of {section}"))
        body.append(_groups_table(first["groups"]))
    body += [_abstention(variant["abstention"]) for variant in measured if "abstention" in variant]
    return body + [f"<p>{_escaped(sentence)}</p>" for sentence in remarks(variants)]


def _plot(name: str, label: str) -> str:
    return f'<div class="plot" id="{_escaped(name)}" role="img" aria-label="{_escaped(label)}"></div>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    head = "".join(f'<th scope="col">{_escaped(column)}</th>' for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{_escaped(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def measure(section: str) -> str:
    """What the first figure of a section is called: MMEB's is the precision of the first place."""
    return {"choice": "share right", "datasets": "Precision@1"}.get(section, "Recall@1")


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal more than papers print; empty for None."""
    return "" if value is None else f"{100 * value:.2f}"


def span(bounds: Sequence[float] | None) -> str:
    """An interval of shares in percent."""
    return "" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def remarks(variants: Sequence[Json]) -> list[str]:
    """What the figures of a section's variants do not tell by themselves."""
    said = [f"{one['name']} was skipped: {one['skipped']}" for one in variants if "skipped" in one]
    said += [
        f"{one['name']} was stopped after {one['queries']} queries: {one['stopped']}; its figures are of those."
        for one in variants
        if "stopped" in one
    ]
    return said + [
        f"{one['name']}: {one['errors']} pairs got no score and kept their coarse place."
        for one in variants
        if one.get("errors") and "stopped" not in one
    ]


def _variants_table(variants: Sequence[Json]) -> str:
    columns = (
        "variant", "k", "coarse @1", "@1", "95 %", "@5", "@10", "change", "95 %", "pairs a query",
        "seconds", "paper",
    )  # fmt: skip
    rows = [
        (
            one["name"],
            one["k"],
            percent(one["coarse"]["r1"]),
            percent(one["fine"]["r1"]),
            span(one.get("intervals", {}).get("fine", {}).get("r1")),
            percent(one["fine"]["r5"]),
            percent(one["fine"]["r10"]),
            percent((one.get("change") or {}).get("r1")),
            span((one.get("change") or {}).get("interval")),
            one["pairs_per_query"],
            one["seconds"],
            percent((one.get("paper") or {}).get("r1")),
        )
        for one in variants
    ]
    queries = max(one["queries"] for one in variants)
    caption = (
        f"{measure(variants[0]['section'])} of {queries} queries and what is among the first 5 and 10, in percent; the "
        "change is against the first variant on the same queries"
    )
    return _table(columns, rows, caption)


def _groups_table(groups: Json) -> str:
    rows = [
        (name, one["queries"], percent(one["coarse"]), percent(one["fine"]), percent(one["paper"]))
        for name, one in groups.items()
    ]
    return _table(("group", "queries", "coarse", "fine", "paper"), rows, "Mean of each group's parts, in percent")


def _recall_figure(benchmark: str, section: str, variants: Sequence[Json]) -> Json:
    names = [one["name"] for one in variants]

    def bars(stage: str, colour: str) -> Json:
        values = [one[stage]["r1"] for one in variants]
        spans = [one["intervals"][stage]["r1"] for one in variants]
        return {
            "type": "bar", "name": stage, "x": names, "y": values, "marker": {"color": colour},
            "error_y": {
                "type": "data", "symmetric": False,
                "array": [high - value for value, (_, high) in zip(values, spans, strict=True)],
                "arrayminus": [value - low for value, (low, _) in zip(values, spans, strict=True)],
            },
        }  # fmt: skip

    data = [bars("coarse", _COARSE), bars("fine", _FINE)]
    paper = [(one["paper"] or {}).get("r1") for one in variants]
    if any(value is not None for value in paper):
        marker = {"color": _PAPER, "symbol": "diamond", "size": 10}
        data.append({"type": "scatter", "mode": "markers", "name": "paper", "x": names, "y": paper, "marker": marker})
    for method, value in published.of_methods(benchmark, section).items():
        if method != published.OUR_METHOD:
            line = {"dash": "dot", "width": 1}
            data.append({"type": "scatter", "mode": "lines", "name": method, "x": names, "y": [value] * len(names),
                         "line": line})  # fmt: skip
    return {"data": data, "layout": {"barmode": "group", "yaxis": {"title": {"text": measure(section)}}}}


def only_size(variant: Json, base: Json) -> bool:
    """Whether a variant differs from another only in how many candidates it looks at."""
    free = ("k", "adaptive")
    same = ("mode", "injection", "entropy", "fusion")
    return any(variant[key] != base[key] for key in free) and all(variant[key] == base[key] for key in same)


def _cost_figure(variants: Sequence[Json], name: str) -> Json:
    point = {
        "type": "scatter", "mode": "markers+text", "x": [one["pairs_per_query"] for one in variants],
        "y": [one["fine"]["r1"] for one in variants], "text": [one["name"] for one in variants],
        "textposition": "top center", "marker": {"color": _FINE, "size": 9}, "showlegend": False,
    }  # fmt: skip
    axes = {"xaxis": {"title": {"text": "pairs judged for a query"}}, "yaxis": {"title": {"text": name}}}
    return {"data": [point], "layout": axes}


def _parts_figure(parts: Json) -> Json:
    def bars(stage: str, colour: str) -> Json:
        values = [one[stage] for one in parts.values()]
        return {"type": "bar", "name": stage, "x": list(parts), "y": values, "marker": {"color": colour}}

    data = [bars("coarse", _COARSE), bars("fine", _FINE)]
    return {"data": data, "layout": {"barmode": "group", "yaxis": {"title": {"text": "share right"}}}}


def _abstention(measured: Json) -> str:
    border = measured["threshold"]
    row = (
        measured["queries"], "none (0)" if border is None else f"{border:.2f}", percent(measured["right"]),
        percent(measured["matched"]), percent(measured["refused"]), f"{measured['auroc']:.4f}",
    )  # fmt: skip
    columns = ("queries", "threshold, log-odds", "right", "kept with a match", "refused without", "AUROC")
    return _table(columns, [row], "No good match: each query with its right candidate in the gallery, and without")
