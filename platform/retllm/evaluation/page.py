"""The result of an evaluation as one self-contained HTML page with tables and charts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retllm import charts
from retllm.charts import Chart, Rule, Series
from retllm.evaluation import published

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark;
  --bs-body-bg: light-dark(#ffffff, #14171b); --bs-body-color: light-dark(#1f2328, #e6e9ed);
  --bs-emphasis-color: var(--bs-body-color); --bs-secondary-color: light-dark(#59636e, #a0a9b3);
  --bs-border-color: light-dark(#d0d7de, #3a4149); }
body { background: var(--bs-body-bg); color: var(--bs-body-color); font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 72rem; padding: 1.5rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
body > p, caption { color: var(--bs-secondary-color); text-align: left; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--bs-border-color); padding: .3rem .7rem .3rem 0; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.charts { margin-top: 1.5rem; }
.chart-legend { list-style: none; padding: 0; }
"""

# maximum number of bars of a chart
_MAX_BARS = 40


def write_page(result: Json, path: Path) -> None:
    """Write the page of a report (see :mod:`retllm.evaluation.report`)."""
    body = [f"<h1>{_escaped(result['benchmark'])}, seed {result['seed']}</h1>", f"<p>{_models(result['models'])}</p>"]
    for section in dict.fromkeys(variant["section"] for variant in result["variants"]):
        variants = [variant for variant in result["variants"] if variant["section"] == section]
        body += _section(result["benchmark"], section, variants)
    path.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>retllm eval {_escaped(result['benchmark'])}</title>\n"
        f"<style>{charts.STYLE.read_text('utf-8')}{_STYLE}</style>\n"
        "</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _escaped(value: object) -> str:
    return html.escape("" if value is None else str(value))


def _models(models: Json) -> str:
    return (
        f"Coarse stage: {_escaped(models['embedder'])}. Fine stage: {_escaped(models['scorer'])}, prompts version "
        f"{_escaped(models['prompt_version'])}, {_escaped(models['dtype'])} on {_escaped(models['device'])}."
    )


def _section(benchmark: str, section: str, variants: Sequence[Json]) -> list[str]:
    measured = [variant for variant in variants if "skipped" not in variant]
    body = [f"<h2>{_escaped(section)}</h2>", _variants_table(variants)]
    if drawn := charts_of(benchmark, section, measured):
        body.append(f'<div class="charts">{"".join(drawn)}</div>')
    if measured and "groups" in measured[0]:
        body.append(_groups_table(measured[0]["groups"]))
    body += [_abstention(variant["abstention"]) for variant in measured if "abstention" in variant]
    return body + [f"<p>{_escaped(sentence)}</p>" for sentence in remarks(variants)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    head = "".join(f'<th scope="col">{_escaped(column)}</th>' for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><caption>{_escaped(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def measure(section: str) -> str:
    """Return the name of a section's first figure."""
    return {"choice": "share right", "datasets": "Precision@1"}.get(section, "Recall@1")


def percent(value: float | None) -> str:
    """Format a share as a percentage, with one decimal more than papers print; empty for None."""
    return "" if value is None else f"{100 * value:.2f}"


def span(bounds: Sequence[float] | None) -> str:
    """Format an interval of shares in percent."""
    return "" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def remarks(variants: Sequence[Json]) -> list[str]:
    """Return remarks on the variants of a section: skipped, stopped, pairs without a score."""
    sentences = [f"{variant['name']} was skipped: {variant['skipped']}" for variant in variants if "skipped" in variant]
    sentences += [
        f"{variant['name']} was stopped after {variant['queries']} queries: {variant['stopped']}; its figures include "
        "only these queries."
        for variant in variants
        if "stopped" in variant
    ]
    return sentences + [
        f"{variant['name']}: {variant['errors']} pairs got no score and kept their coarse rank."
        for variant in variants
        if variant.get("errors") and "stopped" not in variant
    ]


def recall_figures(variant: Json) -> tuple[object, ...]:
    """Return name, k and recall of a variant, the first seven columns of its row; a missing interval is empty."""
    return (
        variant["name"],
        variant["k"],
        percent(variant["coarse"]["r1"]),
        percent(variant["fine"]["r1"]),
        span(variant.get("intervals", {}).get("fine", {}).get("r1")),
        percent(variant["fine"]["r5"]),
        percent(variant["fine"]["r10"]),
    )


def _variants_table(variants: Sequence[Json]) -> str:
    columns = (
        "variant", "k", "coarse @1", "@1", "95 %", "@5", "@10", "change", "95 %", "pairs per query",
        "seconds", "paper",
    )  # fmt: skip
    rows = [
        (
            *recall_figures(variant),
            percent((variant.get("change") or {}).get("r1")),
            span((variant.get("change") or {}).get("interval")),
            variant["pairs_per_query"],
            variant["seconds"],
            percent((variant.get("paper") or {}).get("r1")),
        )
        for variant in variants
    ]
    queries = max(variant["queries"] for variant in variants)
    caption = (
        f"{measure(variants[0]['section'])} of {queries} queries, and the same for the first 5 and 10, in percent; the "
        "change is relative to the first variant on the same queries"
    )
    return _table(columns, rows, caption)


def _groups_table(groups: Json) -> str:
    rows = [
        (name, group["queries"], percent(group["coarse"]), percent(group["fine"]), percent(group["paper"]))
        for name, group in groups.items()
    ]
    return _table(("group", "queries", "coarse", "fine", "paper"), rows, "Mean of each group's parts, in percent")


def charts_of(benchmark: str, section: str, measured: Sequence[Json]) -> list[Markup]:
    """Return the charts of a section's measured variants: figures, cost and parts."""
    drawn = (
        _recall_chart(benchmark, section, measured),
        _cost_chart(section, measured),
        _parts_chart(section, measured),
    )
    return [chart for chart in drawn if chart is not None]


def _recall_chart(benchmark: str, section: str, measured: Sequence[Json]) -> Markup | None:
    if not 0 < len(measured) <= _MAX_BARS:
        return None
    paper = [(variant.get("paper") or {}).get("r1") for variant in measured]
    series = [_stage(measured, "fine"), _stage(measured, "coarse")]
    if any(value is not None for value in paper):
        series.append(Series("paper", _percents(paper), points=True))
    others = published.of_methods(benchmark, section).items()
    return charts.bars(
        Chart(
            f"{measure(section)} of every variant, with 95 % intervals",
            [variant["name"] for variant in measured],
            series,
            x_name="variant",
            each_named=True,
            unit="%",
            decimals=2,
            high=100,
            rules=[Rule(method, 100 * value) for method, value in others if method != published.OUR_METHOD],
        )
    )


def _stage(measured: Sequence[Json], stage: str) -> Series:
    bounds = [(variant.get("intervals") or {}).get(stage, {}).get("r1") for variant in measured]
    spans = [None if bound is None else (100 * bound[0], 100 * bound[1]) for bound in bounds]
    return Series(f"{stage} stage", _percents([variant[stage]["r1"] for variant in measured]), spans)


def _percents(shares: Sequence[float | None]) -> list[float | None]:
    return [None if share is None else 100 * share for share in shares]


def only_size(variant: Json, base: Json) -> bool:
    """Return whether a variant differs from another only in the number of candidates that it scores."""
    free = ("k", "adaptive")
    same = ("mode", "injection", "entropy", "fusion")
    return any(variant.get(key) != base.get(key) for key in free) and all(variant[key] == base[key] for key in same)


def _cost_chart(section: str, measured: Sequence[Json]) -> Markup | None:
    """Return the chart of the figure by the number of scored pairs."""
    sizes = [variant for variant in measured if variant is measured[0] or only_size(variant, measured[0])]
    costs = sorted(
        (variant["pairs_per_query"], variant["fine"]["r1"], variant["name"])
        for variant in sizes
        if variant.get("pairs_per_query") is not None
    )
    if not 1 < len(costs) <= _MAX_BARS:
        return None
    return charts.lines(
        Chart(
            f"{measure(section)} by scored pairs per query",
            [f"{name}: {pairs:g}" for pairs, _, name in costs],
            [Series("fine stage", _percents([share for _, share, _ in costs]))],
            x_name="variant: scored pairs per query",
            each_named=True,
            unit="%",
            decimals=2,
            low=None,
        )
    )


def _parts_chart(section: str, measured: Sequence[Json]) -> Markup | None:
    parts = measured[0].get("parts") or {} if measured else {}
    if not 1 < len(parts) <= _MAX_BARS:
        return None
    return charts.bars(
        Chart(
            f"{measure(section)} of each part",
            list(parts),
            [
                Series(f"{stage} stage", _percents([part[stage] for part in parts.values()]))
                for stage in ("fine", "coarse")
            ],
            x_name="part",
            each_named=True,
            unit="%",
            decimals=2,
            high=100,
        )
    )


def _abstention(measured: Json) -> str:
    threshold = measured["threshold"]
    row = (
        measured["queries"], "none (0)" if threshold is None else f"{threshold:.2f}", percent(measured["right"]),
        percent(measured["matched"]), percent(measured["refused"]), f"{measured['auroc']:.4f}",
    )  # fmt: skip
    columns = ("queries", "threshold, log-odds", "right", "accepted with match", "rejected without match", "AUROC")
    return _table(columns, [row], "No good match: each query with and without its right candidate in the gallery")
