"""The check of `retllm doctor` for a scorer on a server: it asks about four drawn pairs."""

from __future__ import annotations

from itertools import chain
from typing import Literal

from PIL import Image

from retllm.fine.content import Content
from retllm.fine.opening import open_scorer
from retllm.fine.scores import PairScore
from retllm.settings import Settings

Finding = tuple[Literal["ok", "warning", "failed"], str, str]
"""The state, the finding, and the advice, which is empty if all is well."""

_SIDE = 224
_COLOURS = ("red", "blue")
#: in log-odds; servers round, and equal scores may differ by as much
_LEAST_GAP = 0.1


def inspect_remote_scorer(settings: Settings) -> Finding:
    """Check that the server of the scorer answers, serves the model, takes pictures, and tells probabilities.

    Raises:
        ServerAway, ServerFailed, ModelUnavailable, ModelUnsuited: it does not; the message says what to do.
    """
    address = settings.remote_scorer
    assert address is not None
    scorer = open_scorer(settings)
    found = (
        f"{address.api} serves {address.model} (revision {scorer.info.revision}; prompts {scorer.info.prompt_version})"
    )
    texts = [Content(text=f"a plain {colour} picture") for colour in _COLOURS]
    pictures = [Content(image=Image.new("RGB", (_SIDE, _SIDE), colour)) for colour in _COLOURS]
    (told,) = scorer.score(texts[0], texts[:1])
    if told.error is not None:
        return "failed", f"{found}, but does not score: {told.error}", "Use another model or server."
    # of each picture: what is said to the first text and to the second
    scores = list(zip(*(scorer.score(text, pictures) for text in texts), strict=True))
    refused = next((score.error for score in chain(*scores) if score.error is not None), None)
    if refused is not None:
        return "warning", f"{found}, but takes no pictures: {refused}", "Pictures need a model that reads pictures."
    said = "; ".join(
        f"of a {seen} picture it says " + " and ".join(map(_said, of_picture, _COLOURS))
        for seen, of_picture in zip(_COLOURS, scores, strict=True)
    )
    (red_of_red, blue_of_red), (red_of_blue, blue_of_blue) = ([one.log_odds or 0.0 for one in row] for row in scores)
    # a model that likes one word, or looks at no picture, tells only one of them right
    if min(red_of_red - blue_of_red, blue_of_blue - red_of_blue) < _LEAST_GAP:
        return (
            "warning",
            f"{found}. It does not tell a red picture from a blue one: {said}.",
            "Check that the server has the chat template of the model, and that the model reads pictures.",
        )
    remarks = sorted({score.remark for score in chain(*scores) if score.remark is not None})
    if remarks:
        return "warning", f"{found}. {remarks[0]}", "Use a server that tells the probabilities of given tokens (vLLM)."
    return "ok", f"{found}. It tells a red picture from a blue one: {said}.", ""


def _said(score: PairScore, colour: str) -> str:
    return f"{score.score or 0.0:.4f} to “{colour}”"
