"""The modes (method section 3): each makes the questions and computes scores from the answers."""

from __future__ import annotations

from collections.abc import Callable

from retllm.errors import InvalidInput
from retllm.fine.model import LoadedModel
from retllm.fine.modes.choice import Choice
from retllm.fine.modes.judge import Judge, JudgeTask, Verdicts
from retllm.fine.modes.true_false import TrueFalse
from retllm.fine.modes.verbalized import Verbalized
from retllm.fine.prompts import Mode, Prompts

__all__ = ["Judge", "JudgeTask", "Verdicts", "make_judge"]

_JUDGES: dict[Mode, Callable[[Prompts, LoadedModel], Judge]] = {
    "true_false": TrueFalse,
    "verbalized": Verbalized,
    "choice": Choice,
}


def make_judge(mode: Mode, prompts: Prompts, loaded: LoadedModel) -> Judge:
    """Create the judge of a mode.

    Raises:
        InvalidInput: there is no such mode.
        ModelUnsuited: the model does not support the mode.
    """
    if mode not in _JUDGES:
        raise InvalidInput(f"mode must be one of {', '.join(_JUDGES)}, not {mode!r}.", field="mode")
    return _JUDGES[mode](prompts, loaded)
