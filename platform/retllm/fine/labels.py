"""The tokens of the labels: each answer whose probability is read has to be a single token of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retllm.errors import ModelUnsuited
from retllm.fine.prompts import Prompts, load_prompts

if TYPE_CHECKING:
    # imports torch, which a worker with a scorer on a server does without
    from retllm.fine.prepare import Preparer


def check_labels(preparer: Preparer, prompts: Prompts) -> None:
    """Check the answers that a profile changes, in the modes that it has.

    Raises:
        ModelUnsuited: one is not a single token; the message names the profile.
    """
    for mode in changed_labels(prompts):
        both_labels(preparer, prompts, mode)


def changed_labels(prompts: Prompts) -> list[str]:
    """Return the modes whose answers are others than those of the prompts without a profile."""
    usual = load_prompts().labels
    return [mode for mode in prompts.modes if prompts.labels.get(mode) != usual.get(mode)]


def both_labels(preparer: Preparer, prompts: Prompts, mode: str) -> tuple[list[int], list[int]]:
    """Return the token ids of the positive and of the negative label of a mode.

    Raises:
        ModelUnsuited: one is not a single token, or both labels share a token.
    """
    labels = prompts.labels[mode]
    found = _ids(preparer, labels.positive), _ids(preparer, labels.negative)
    for ids, spellings in zip(found, (labels.positive, labels.negative), strict=True):
        if not ids:
            raise no_token(preparer.model, prompts, mode, spellings)
    positive, negative = found
    if set(positive) & set(negative):
        raise ModelUnsuited(f"{preparer.model} encodes both answers as the same token.")
    return positive, negative


def no_token(model: str, prompts: Prompts, mode: str, spellings: tuple[str, ...]) -> ModelUnsuited:
    """Return the error for a label of which no spelling is a single token."""
    label = spellings[0].strip()
    advice = "choose another model, or check that its tokenizer is complete"
    if mode in changed_labels(prompts):
        advice = f"set another answer in labels.{mode} of the profile {prompts.profile} (RETLLM_PROFILE)"
    return ModelUnsuited(
        f'The answer "{label}" is not a single token of {model}, so its probability can\'t be read in one pass: '
        f"{advice}.",
        label=label,
    )


def _ids(preparer: Preparer, spellings: tuple[str, ...]) -> list[int]:
    """Return the single tokens of a label: each spelling that is one token, alone or at the start of the answer.

    Some tokenizers encode a word differently after other text.
    """
    prompt = preparer.render(["True or False?"])
    before = preparer.encode(prompt)
    found: set[int] = set()
    for spelling in spellings:
        alone = preparer.encode(spelling, continued=True)
        after = preparer.encode(prompt + spelling)
        follows = after[len(before) :] if after[: len(before)] == before else []
        found |= {ids[0] for ids in (alone, follows) if len(ids) == 1 and preparer.spells(ids[0], spelling)}
    return sorted(found)
