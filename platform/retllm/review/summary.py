"""Summaries of reviewed searches: by collection, over time, by settings. Pure functions."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from retllm.review.measures import Measures, Verdict
from retllm.review.reviewed import Reviewed

Period = Literal["day", "week"]
NDCG_AT = 10
"""Rank of the nDCG in summaries."""


@dataclass(frozen=True)
class Means:
    """The means over searches with a known verdict, from 0 to 1; None if there are none."""

    verdicts: Mapping[Verdict, int]
    recall_coarse: float | None
    recall_fine: float | None
    ndcg_coarse: float | None
    ndcg_fine: float | None

    @property
    def known(self) -> int:
        """Return the number of searches with a known verdict."""
        return sum(count for verdict, count in self.verdicts.items() if verdict is not Verdict.UNKNOWN)

    def share(self, verdict: Verdict) -> float | None:
        """Return the share of a verdict among the known ones."""
        return self.verdicts.get(verdict, 0) / self.known if self.known else None


@dataclass(frozen=True)
class Figures:
    """The measures of one search that summaries use; all None if its verdict is unknown."""

    verdict: Verdict
    recall_coarse: float | None = None
    recall_fine: float | None = None
    ndcg_coarse: float | None = None
    ndcg_fine: float | None = None


def figures_of(measures: Measures) -> Figures:
    """Return the figures of a search."""
    coarse, fine = measures.coarse, measures.fine
    if coarse is None or fine is None:
        return Figures(measures.verdict)
    return Figures(measures.verdict, coarse.recall_at_1, fine.recall_at_1, coarse.ndcg[NDCG_AT], fine.ndcg[NDCG_AT])


def means(measured: Iterable[Measures]) -> Means:
    """Return the means over several searches."""
    return means_of([figures_of(measures) for measures in measured])


def means_of(figures: Sequence[Figures]) -> Means:
    """Return the means of figures."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    return Means(
        verdicts=Counter(one.verdict for one in figures),
        recall_coarse=mean(one.recall_coarse for one in figures),
        recall_fine=mean(one.recall_fine for one in figures),
        ndcg_coarse=mean(one.ndcg_coarse for one in figures),
        ndcg_fine=mean(one.ndcg_fine for one in figures),
    )


def newest(searches: Iterable[Reviewed]) -> list[Reviewed]:
    """Return the first search of each query; the input is sorted newest first."""
    found: dict[tuple[object, str], Reviewed] = {}
    for one in searches:
        found.setdefault((one.collection_id, one.question), one)
    return list(found.values())


def over_time(searches: Iterable[Reviewed], period: Period) -> dict[dt.date, Means]:
    """Return the means by day or week (its Monday) of the final order, oldest first, in UTC."""
    groups: defaultdict[dt.date, list[Measures]] = defaultdict(list)
    for one in searches:
        day = one.final_at.astimezone(dt.UTC).date()
        groups[day if period == "day" else day - dt.timedelta(days=day.weekday())].append(one.measures)
    return {day: means(groups[day]) for day in sorted(groups)}


@dataclass(frozen=True)
class Setting:
    """The settings of a search that summaries compare."""

    mode: str
    trigger: str
    k: int
    waves: bool
    fusion_weight: float
    embedder: str
    scorer: str
    scorer_version: str | None


@dataclass(frozen=True)
class Compared:
    """The newest search of each query with these settings.

    ``gain`` is the difference of the mean Recall@1 of the fine stage to the first settings of the list, over the
    ``shared`` queries that both have; None for the first settings, and if they share none.
    """

    setting: Setting
    searches: Sequence[Reviewed]
    means: Means
    shared: int
    gain: float | None


def by_settings(searches: Iterable[Reviewed]) -> list[Compared]:
    """Group searches by their settings; settings with the most queries first."""
    groups: defaultdict[Setting, list[Reviewed]] = defaultdict(list)
    for one in searches:
        if one.measures.fine is not None:
            groups[setting_of(one)].append(one)
    newest_of = {setting: newest(group) for setting, group in groups.items()}
    # the sort is stable: with equal counts, the most recently used settings come first
    ordered = sorted(newest_of.items(), key=lambda group: -len(group[1]))
    base = _recalls(ordered[0][1]) if ordered else {}
    compared = []
    for place, (setting, group) in enumerate(ordered):
        recalls = _recalls(group)
        both = recalls.keys() & base.keys() if place else set()
        gain = fmean(recalls[question] - base[question] for question in both) if both else None
        compared.append(Compared(setting, group, means(one.measures for one in group), len(both), gain))
    return compared


def setting_of(search: Reviewed) -> Setting:
    """Return the settings of a search that summaries compare."""
    return Setting(
        mode=search.mode,
        trigger=search.trigger,
        k=search.k,
        waves=search.waves,
        fusion_weight=search.fusion_weight,
        embedder=search.embedder,
        scorer=search.scorer,
        scorer_version=search.scorer_version,
    )


def _recalls(searches: Iterable[Reviewed]) -> dict[str, float]:
    return {one.question: one.measures.fine.recall_at_1 for one in searches if one.measures.fine is not None}
