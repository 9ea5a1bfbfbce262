"""The report of an evaluation as its page shows it: a section at a time, with charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from retllm.evaluation.page import measure, only_size, remarks
from retllm.review.reports import PartFigures, Report, ReportVariant
from retllm_web.render import charts
from retllm_web.render.charts import Chart, Rule, Series

# bars that one chart has room for
_MAX_BARS = 40


@dataclass(frozen=True)
class Section:
    """A section of a report; ``measure`` is what its first figure is called."""

    name: str
    measure: str
    variants: Sequence[ReportVariant]
    queries: int
    groups: dict[str, PartFigures]
    parts: dict[str, PartFigures]
    charts: Sequence[Markup]
    remarks: Sequence[str]


def sections_of(report: Report) -> list[Section]:
    """The sections in the order of the report."""
    return [_section(name, variants) for name, variants in report.sections.items()]


def _section(name: str, variants: Sequence[ReportVariant]) -> Section:
    measured = [one for one in variants if one.skipped is None]
    plain = [{key: value for key, value in one.model_dump().items() if value is not None} for one in variants]
    first = variants[0]
    return Section(
        name=name,
        measure=measure(name),
        variants=variants,
        queries=max(one.queries for one in variants),
        groups=first.groups,
        parts=first.parts,
        charts=[chart for chart in _charts(name, measured) if chart is not None],
        remarks=remarks(plain),
    )


def _charts(name: str, measured: Sequence[ReportVariant]) -> list[Markup | None]:
    return [_recall_chart(name, measured), _cost_chart(name, measured), _parts_chart(name, measured)]


def _recall_chart(name: str, measured: Sequence[ReportVariant]) -> Markup | None:
    if not 0 < len(measured) <= _MAX_BARS:
        return None
    paper = measured[0].paper.r1 if measured[0].paper is not None else None
    chart = Chart(
        f"{measure(name)} of every variant",
        [one.name for one in measured],
        _two_stages([one.coarse.r1 for one in measured], [one.fine.r1 for one in measured]),
        x_name="variant",
        each_named=True,
        unit="%",
        decimals=2,
        high=100,
        rules=[] if paper is None else [Rule("paper", 100 * paper)],
    )
    return charts.bars(chart)


def _cost_chart(name: str, measured: Sequence[ReportVariant]) -> Markup | None:
    """What more candidates bring, by the pairs that the model had to judge."""
    sizes = [one for one in measured if one is measured[0] or only_size(one.model_dump(), measured[0].model_dump())]
    priced = sorted((one.pairs_per_query, one.fine.r1, one.name) for one in sizes if one.pairs_per_query is not None)
    if not 1 < len(priced) <= _MAX_BARS:
        return None
    chart = Chart(
        f"{measure(name)} by what it costs",
        [f"{pairs:g}" for pairs, _, _ in priced],
        [Series("fine stage", [100 * (share or 0) for _, share, _ in priced])],
        x_name="pairs judged for a query",
        unit="%",
        decimals=2,
        low=None,
    )
    return charts.lines(chart)


def _parts_chart(name: str, measured: Sequence[ReportVariant]) -> Markup | None:
    parts = measured[0].parts if measured else {}
    if not 1 < len(parts) <= _MAX_BARS:
        return None
    chart = Chart(
        f"{measure(name)} of each part",
        list(parts),
        _two_stages([one.coarse for one in parts.values()], [one.fine for one in parts.values()]),
        x_name="part",
        each_named=True,
        unit="%",
        decimals=2,
        high=100,
    )
    return charts.bars(chart)


def _two_stages(coarse: Sequence[float | None], fine: Sequence[float | None]) -> list[Series]:
    return [
        Series(name, [None if value is None else 100 * value for value in values])
        for name, values in (("fine stage", fine), ("coarse stage", coarse))
    ]
