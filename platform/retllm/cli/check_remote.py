"""The check of `retllm doctor` for a scorer on a server: it asks about two drawn pairs."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from retllm.fine.content import Content
from retllm.fine.opening import open_scorer
from retllm.settings import Settings

Finding = tuple[Literal["ok", "warning", "failed"], str, str]
"""The state, the finding, and the advice, which is empty if all is well."""

_SIDE = 224


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
    right, wrong = (Content(text=f"a plain {colour} picture") for colour in ("red", "blue"))
    shown = Content(image=Image.new("RGB", (_SIDE, _SIDE), "red"))
    (told,) = scorer.score(right, [right])
    if told.error is not None:
        return "failed", f"{found}, but does not score: {told.error}", "Use another model or server."
    scores = [scorer.score(text, [shown])[0] for text in (right, wrong)]
    refused = next((score.error for score in scores if score.error is not None), None)
    if refused is not None:
        return "warning", f"{found}, but takes no pictures: {refused}", "Pictures need a model that reads pictures."
    (first, second) = (score.score or 0.0 for score in scores)
    if first <= second:
        return (
            "warning",
            f"{found}. Of a red picture it says {first:.4f} to “red” and {second:.4f} to “blue”.",
            "Check that the server has the chat template of the model.",
        )
    remarks = sorted({score.remark for score in scores if score.remark is not None})
    if remarks:
        return "warning", f"{found}. {remarks[0]}", "Use a server that tells the probabilities of given tokens (vLLM)."
    return "ok", f"{found}. It tells a red picture ({first:.4f}) from a blue one ({second:.4f}).", ""
