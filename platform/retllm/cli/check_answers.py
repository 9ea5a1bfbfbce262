"""The check of `retllm doctor --scorer`: it asks the scorer about a dozen drawn pairs whose answers are known.

A model that is asked in another way than it was trained for still gives scores; this check says so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import Literal

from retllm.demo.claims import caption
from retllm.demo.scenes import Scene, random_scene, render
from retllm.fine.content import Content
from retllm.fine.injection import NO_INJECTION
from retllm.fine.interface import FineScorer
from retllm.fine.prompts import Mode
from retllm.fine.written import quoted

Finding = tuple[Literal["ok", "warning", "failed"], str, str]
"""The state, the finding, and the advice, which is empty if all is well."""

_PICTURES = 6
_EDGE = 448
_SEED = 11

#: scores within less than this, or log-odds within less than that, are flat
_FLAT_SCORE = 0.005
_FLAT_LOG_ODDS = 0.25

#: minimum probability of both labels together, half of the pairs having more
_LABELS = 0.5

#: minimum share of comparisons in which the right pair has the higher score; guessing exceeds it once in ten times
_TOLD_APART = 0.75

_TEMPLATE = (
    "Check that its files have the chat template of the model, and that its profile (see above) is the right one: "
    "RETLLM_PROFILE sets another."
)


def inspect_answers(scorer: FineScorer, mode: Mode) -> list[Finding]:
    """Ask about six drawn pictures, each with its own caption and with another one's.

    Args:
        scorer: of any kind.
        mode: in which it is asked, without re-injection.

    Raises:
        RetllmError: it can't be used at all.
    """
    scenes = known_scenes()
    shown = [Content(image=render(scene, _EDGE)) for scene in scenes]
    texts = [Content(text=caption(scene)) for scene in scenes]
    pairs = [*zip(texts, shown, strict=True), *zip([*texts[1:], texts[0]], shown, strict=True)]
    scores = scorer.score_pairs(pairs, NO_INJECTION, mode=mode)
    told = [(score.score, score.log_odds) for score in scores if score.score is not None and score.log_odds is not None]
    if len(told) < len(pairs):
        errors = next(score.error for score in scores if score.error is not None)
        return [("failed", f"Of {len(pairs)} known pairs, {len(pairs) - len(told)} have no score: {errors}", _TEMPLATE)]
    masses = [score.mass for score in scores if score.mass is not None]
    found = [*_flat(told), *_mixed_up(told[:_PICTURES], told[_PICTURES:])]
    if masses and median(masses) < _LABELS:
        found.append(_beside_labels(masses, scorer.says(*pairs[0]) if mode == "true_false" else None))
    right, wrong = (median(score for score, _ in half) for half in (told[:_PICTURES], told[_PICTURES:]))
    found = found or _off_even_odds(told[:_PICTURES], told[_PICTURES:])
    well = f"Of {len(pairs)} known pairs, right ones have {right:.4f} and wrong ones {wrong:.4f} (medians)."
    return found or [("ok", well, "")]


def known_scenes() -> list[Scene]:
    """Return scenes whose captions are true of one of them each."""
    rng = random.Random(_SEED)  # noqa: S311 - drawings
    return [random_scene(rng, held_out=False, third_share=0) for _ in range(_PICTURES)]


_Told = Sequence[tuple[float, float]]


def _flat(told: _Told) -> list[Finding]:
    scores, log_odds = zip(*told, strict=True)
    low, high = min(scores), max(scores)
    if high - low >= _FLAT_SCORE and max(log_odds) - min(log_odds) >= _FLAT_LOG_ODDS:
        return []
    message = f"The scores are flat: all {len(told)} of known pairs, right or wrong, are from {low:.4f} to {high:.4f}."
    return [("warning", message, _TEMPLATE)]


def _beside_labels(masses: Sequence[float], says: str | None) -> Finding:
    message = (
        f"The labels are not what the model wants to say: it gives both together a probability of {median(masses):.4f} "
        f"(median of {len(masses)} known pairs)."
    )
    if says is not None:
        message += f" Its own answer begins with {quoted(says)}."
    return "warning", message, f"Use a profile with the answers that it was trained to give. {_TEMPLATE}"


def _off_even_odds(right: _Told, wrong: _Told) -> list[Finding]:
    """Return a warning if pairs that are told apart lie on one side of even odds."""
    below, above = (median(log_odds for _, log_odds in half) < 0 for half in (right, wrong))
    if below is not above:
        return []
    middles = " and ".join(f"{median(score for score, _ in half):.4f}" for half in (right, wrong))
    message = (
        f"Right and wrong are told apart, but both are {'below' if below else 'above'} even odds ({middles}, medians). "
        "The order of results is right, but a score is no probability. What is no good match is told as soon as a "
        "collection has 50 scores that part into two clusters."
    )
    return [("warning", message, f"Search on, or correct how the model is asked. {_TEMPLATE}")]


def _mixed_up(right: _Told, wrong: _Told) -> list[Finding]:
    pairs = [(one, other) for _, one in right for _, other in wrong]
    higher = sum(one > other for one, other in pairs)
    if higher >= _TOLD_APART * len(pairs):
        return []
    message = (
        f"Right and wrong are not told apart: the right one of two known pairs has the higher score in {higher} of "
        f"{len(pairs)} comparisons."
    )
    return [("warning", message, f"Use another model, or correct how this one is asked. {_TEMPLATE}")]
