"""Score pairs with a trace: run the questions with a recorder, and again without injection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retllm.fine.content import Content
from retllm.fine.engine import Engine
from retllm.fine.modes.interface import ModeScorer, ScoreTask
from retllm.fine.scores import PairScore
from retllm.fine.trace import Side, Trace
from retllm.fine.tracing import Recorder


def score_traced(
    mode_scorer: ModeScorer, task: ScoreTask, watched: Engine, recorder: Recorder, plain: Engine | None
) -> list[PairScore]:
    """Return the scores of a task, with a trace for each pair with a picture. Waits for the device.

    Args:
        mode_scorer: the mode.
        task: the pairs.
        watched: an engine with the requested settings and ``recorder``.
        recorder: of that engine.
        plain: an engine without injection; None if ``watched`` injects nothing.

    Raises:
        The errors of :meth:`ModeScorer.score`, and ScoreUnreadable.
    """
    scores = mode_scorer.score(watched, task)()
    without: dict[int, PairScore] = {}
    if plain is not None:
        seen = [pair for pair in task.pairs if pair.place in recorder.records]
        found = mode_scorer.score(plain, ScoreTask(seen))()
        without = {pair.place: score for pair, score in zip(seen, found, strict=True)}
    return [
        replace(
            score,
            trace=_trace(recorder, pair.place, shown(pair.query, pair.candidate), score, without.get(pair.place)),
        )
        for pair, score in zip(task.pairs, scores, strict=True)
    ]


def _trace(
    recorder: Recorder, place: int, sides: Sequence[Side], score: PairScore, without: PairScore | None
) -> Trace | None:
    record = recorder.records.get(place)
    if record is None:
        return None
    return Trace(
        uncertainty=record.uncertainty,
        armed_layer=record.armed_layer,
        plain_score=score.score if without is None else without.score,
        injected_score=None if without is None else score.score,
        map_layer=record.map_layer,
        weights=record.weights,
        shown=tuple(sides),
        grids=record.grids,
    )


def shown(query: Content, candidate: Content) -> tuple[Side, ...]:
    """Return whose pictures a question shows, in the order of all templates."""
    sides: tuple[tuple[Side, Content], ...] = (("query", query), ("candidate", candidate))
    return tuple(side for side, content in sides if content.image is not None)
