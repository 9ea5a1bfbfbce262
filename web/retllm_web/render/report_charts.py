"""The report of an evaluation as its page shows it: sections with charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from retllm.evaluation.page import charts_of, measure, remarks
from retllm.review.reports import PartFigures, Report, ReportVariant


@dataclass(frozen=True)
class Section:
    """A section of a report; ``measure`` is the name of its first figure."""

    name: str
    measure: str
    variants: Sequence[ReportVariant]
    queries: int
    groups: dict[str, PartFigures]
    parts: dict[str, PartFigures]
    charts: Sequence[Markup]
    remarks: Sequence[str]


def sections_of(report: Report) -> list[Section]:
    """Return the sections in the order of the report."""
    return [_section(report.benchmark, name, variants) for name, variants in report.sections.items()]


def _section(benchmark: str, name: str, variants: Sequence[ReportVariant]) -> Section:
    plain = [{key: value for key, value in variant.model_dump().items() if value is not None} for variant in variants]
    first = variants[0]
    return Section(
        name=name,
        measure=measure(name),
        variants=variants,
        queries=max(variant.queries for variant in variants),
        groups=first.groups,
        parts=first.parts,
        charts=charts_of(benchmark, name, [variant for variant in plain if "skipped" not in variant]),
        remarks=remarks(plain),
    )
