"""Judging with a trace: the same questions to an engine that is watched, and once more with nothing injected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retllm.fine.content import Content
from retllm.fine.engine import Engine
from retllm.fine.modes.judge import Judge, Matter
from retllm.fine.scores import PairScore
from retllm.fine.trace import Side, Trace
from retllm.fine.tracing import Recorder


def judge_traced(
    judge: Judge, matter: Matter, watched: Engine, recorder: Recorder, plain: Engine | None
) -> list[PairScore]:
    """The scores of a matter, each that is of a pair with a picture with its trace. Waits for the device.

    Args:
        judge: the way of asking.
        matter: what is judged.
        watched: an engine with the settings asked for, watched by ``recorder``.
        recorder: of that engine.
        plain: an engine that injects nothing; None where ``watched`` is that already.

    Raises:
        What :meth:`Judge.judge` does, and ScoreUnreadable.
    """
    scores = judge.judge(watched, matter)()
    without: dict[int, PairScore] = {}
    if plain is not None:
        seen = [(place, candidate) for place, candidate in matter.candidates if place in recorder.records]
        found = judge.judge(plain, Matter(matter.query, seen))()
        without = {place: score for (place, _), score in zip(seen, found, strict=True)}
    return [
        replace(score, trace=_trace(recorder, place, shown(matter.query, candidate), score, without.get(place)))
        for (place, candidate), score in zip(matter.candidates, scores, strict=True)
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
    """Whose pictures a question shows, in the order that every template has."""
    sides: tuple[tuple[Side, Content], ...] = (("query", query), ("candidate", candidate))
    return tuple(side for side, content in sides if content.image is not None)
