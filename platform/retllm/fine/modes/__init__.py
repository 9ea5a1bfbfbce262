"""The modes (method section 3): each makes the questions and computes scores from the answers."""

from __future__ import annotations

from collections.abc import Callable

from retllm.errors import InvalidInput
from retllm.fine.model import LoadedModel
from retllm.fine.modes.choice import Choice
from retllm.fine.modes.interface import ModeScorer, PendingScores, ScoreTask
from retllm.fine.modes.true_false import TrueFalse
from retllm.fine.modes.verbalized import Verbalized
from retllm.fine.prompts import Mode, Prompts

__all__ = ["ModeScorer", "PendingScores", "ScoreTask", "make_mode_scorer"]

_MODE_SCORERS: dict[Mode, Callable[[Prompts, LoadedModel], ModeScorer]] = {
    "true_false": TrueFalse,
    "verbalized": Verbalized,
    "choice": Choice,
}


def make_mode_scorer(mode: Mode, prompts: Prompts, loaded: LoadedModel) -> ModeScorer:
    """Create the scorer of a mode.

    Raises:
        InvalidInput: there is no such mode.
        ModelUnsuited: the model does not support the mode.
    """
    if mode not in _MODE_SCORERS:
        raise InvalidInput(f"mode must be one of {', '.join(_MODE_SCORERS)}, not {mode!r}.", field="mode")
    prompts.check_mode(mode)
    return _MODE_SCORERS[mode](prompts, loaded)
