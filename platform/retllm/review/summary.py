"""Reviewed searches put together: by collection, over time, by settings. Pure functions."""

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
"""The places of the nDCG that summaries tell."""


@dataclass(frozen=True)
class Means:
    """The means over searches whose verdict is known; None where there is none. Shares from 0 to 1."""

    verdicts: Mapping[Verdict, int]
    recall_coarse: float | None
    recall_fine: float | None
    ndcg_coarse: float | None
    ndcg_fine: float | None

    @property
    def known(self) -> int:
        """Searches that the means are of."""
        return sum(count for verdict, count in self.verdicts.items() if verdict is not Verdict.UNKNOWN)

    def share(self, verdict: Verdict) -> float | None:
        """The share of a verdict among the known ones."""
        return self.verdicts.get(verdict, 0) / self.known if self.known else None


@dataclass(frozen=True)
class Figures:
    """The measures of one search that are put together; all None where its verdict is unknown."""

    verdict: Verdict
    recall_coarse: float | None = None
    recall_fine: float | None = None
    ndcg_coarse: float | None = None
    ndcg_fine: float | None = None


def figures_of(measures: Measures) -> Figures:
    """The figures of a search."""
    coarse, fine = measures.coarse, measures.fine
    if coarse is None or fine is None:
        return Figures(measures.verdict)
    return Figures(measures.verdict, coarse.recall_at_1, fine.recall_at_1, coarse.ndcg[NDCG_AT], fine.ndcg[NDCG_AT])


def means(measured: Iterable[Measures]) -> Means:
    """What several searches come to, each counting the same."""
    return means_of([figures_of(one) for one in measured])


def means_of(figures: Sequence[Figures]) -> Means:
    """The same of figures that are known already."""

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
    """The first search of each question; they come newest first."""
    found: dict[tuple[object, str], Reviewed] = {}
    for one in searches:
        found.setdefault((one.collection_id, one.question), one)
    return list(found.values())


def over_time(searches: Iterable[Reviewed], period: Period) -> dict[dt.date, Means]:
    """The means of each day or week (by its Monday) in which a search was finished, oldest first; UTC."""
    groups: defaultdict[dt.date, list[Measures]] = defaultdict(list)
    for one in searches:
        day = one.final_at.astimezone(dt.UTC).date()
        groups[day if period == "day" else day - dt.timedelta(days=day.weekday())].append(one.measures)
    return {day: means(groups[day]) for day in sorted(groups)}


@dataclass(frozen=True)
class Setting:
    """The settings that summaries compare."""

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
    """The newest search of each question with these settings.

    ``gain`` is the change of the fine stage's mean Recall@1 against the first settings of the list, on the ``shared``
    questions that both were asked; None for the first ones, and where they share none.
    """

    setting: Setting
    searches: Sequence[Reviewed]
    means: Means
    shared: int
    gain: float | None


def by_settings(searches: Iterable[Reviewed]) -> list[Compared]:
    """Searches of the same questions grouped by their settings; those of the most questions first."""
    groups: defaultdict[Setting, list[Reviewed]] = defaultdict(list)
    for one in searches:
        if one.measures.fine is not None:
            groups[setting_of(one)].append(one)
    newest_of = {setting: newest(group) for setting, group in groups.items()}
    # the sort is stable, so among equals the settings used last come first
    ordered = sorted(newest_of.items(), key=lambda group: -len(group[1]))
    base = _recalls(ordered[0][1]) if ordered else {}
    made = []
    for place, (setting, group) in enumerate(ordered):
        mine = _recalls(group)
        both = mine.keys() & base.keys() if place else set()
        gain = fmean(mine[question] - base[question] for question in both) if both else None
        made.append(Compared(setting, group, means(one.measures for one in group), len(both), gain))
    return made


def setting_of(search: Reviewed) -> Setting:
    """The settings of a search, as far as summaries tell them apart."""
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
