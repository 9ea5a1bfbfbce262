"""The outcome of a rerun of reviewed queries, compared with the earlier searches; stored when the run has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS, RunSource
from retllm.db.reviews import EvaluationRun
from retllm.evaluation.metrics import interval
from retllm.review.measures import Verdict
from retllm.review.reviewed import measures_of
from retllm.review.runs import states_of, texts_of
from retllm.review.summary import Figures, Means, figures_of, means_of

_SEED = 101


@dataclass(frozen=True)
class RunAnswer:
    """One query of a run: its new search and the one before, with the measures of each, if known."""

    question: str
    text: str | None
    has_picture: bool
    search: UUID
    before: UUID
    now: Figures | None
    then: Figures | None


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of a run so far, or at its end (``final``); later marks do not change a final outcome.

    ``now`` and ``then`` are means over the ``shared`` queries with measures of both searches; ``gain`` is the change
    of the Recall@1 of the fine stage on them, with its 95 % bootstrap interval.
    """

    final: bool
    answers: Sequence[RunAnswer]
    shared: int
    now: Means
    then: Means
    gain: float | None
    gain_interval: tuple[float, float] | None


def outcome_of(session: Session, run: EvaluationRun) -> RunOutcome:
    """Return the outcome of a reviewed run; the first call after its end stores it."""
    stored = run.report.get("answers")
    if stored is not None:
        return _summarized([_read(answer) for answer in stored], final=True)
    answers = _answers(session, run)
    final = all(state in OVER_JOBS for state in states_of(session, run))
    if final:
        _store(session, run, answers)
    return _summarized(answers, final=final)


def _store(session: Session, run: EvaluationRun, answers: Sequence[RunAnswer]) -> None:
    # a concurrent reader neither waits nor writes
    locked = session.scalar(
        sa.select(EvaluationRun)
        .where(EvaluationRun.id == run.id, EvaluationRun.source == RunSource.REVIEWED)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if locked is not None and "answers" not in locked.report:
        locked.report = {**locked.report, "answers": [_written(answer) for answer in answers]}


def _answers(session: Session, run: EvaluationRun) -> list[RunAnswer]:
    pairs = [(UUID(row["search"]), UUID(row["before"]), row["question"]) for row in run.report.get("searches", [])]
    keys = [key for search, before, _ in pairs for key in (search, before)]
    measured = {key: figures_of(measures) for key, measures in measures_of(session, keys).items()}
    texts = texts_of(session, keys)
    nothing = (None, False)
    return [
        RunAnswer(
            question=question,
            text=texts.get(search, texts.get(before, nothing))[0],
            has_picture=texts.get(search, texts.get(before, nothing))[1],
            search=search,
            before=before,
            now=measured.get(search),
            then=measured.get(before),
        )
        for search, before, question in pairs
    ]


def _summarized(answers: Sequence[RunAnswer], *, final: bool) -> RunOutcome:
    both = [(each.now, each.then) for each in answers if each.now is not None and each.then is not None]
    known = [(now, then) for now, then in both if now.recall_fine is not None and then.recall_fine is not None]
    changes = np.array([(now.recall_fine or 0.0) - (then.recall_fine or 0.0) for now, then in known])
    return RunOutcome(
        final=final,
        answers=answers,
        shared=len(known),
        now=means_of([now for now, _ in known]),
        then=means_of([then for _, then in known]),
        gain=float(changes.mean()) if known else None,
        gain_interval=interval([changes], _SEED) if known else None,
    )


def _written(answer: RunAnswer) -> dict[str, Any]:
    plain = asdict(answer)
    return plain | {"search": str(answer.search), "before": str(answer.before)}


def _read(stored: Mapping[str, Any]) -> RunAnswer:
    def figures(found: Mapping[str, Any] | None) -> Figures | None:
        return None if found is None else Figures(**{**found, "verdict": Verdict(found["verdict"])})

    plain = {name: stored[name] for name in ("question", "text", "has_picture")}
    return RunAnswer(
        **plain,
        search=UUID(stored["search"]),
        before=UUID(stored["before"]),
        now=figures(stored["now"]),
        then=figures(stored["then"]),
    )
