"""Small image-text-to-text models with random weights, one of each family, saved to a folder like a real model.

Their weights have a large variance, so that scores differ between pairs and readings differ between layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.soak import SOAK
from tests.unit.fine.families.gemma import gemma3, gemma4, paligemma
from tests.unit.fine.families.llava import llava, llava_next, llava_onevision
from tests.unit.fine.families.qwen import glm4v, qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_vl
from tests.unit.fine.families.tiled import idefics3, internvl, mistral3, smolvlm

BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "glm4v": glm4v,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "mistral3": mistral3,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "paligemma": paligemma,
}
"""For each family, the function that makes a model and its processor."""

FAMILIES = list(BUILDERS)

_DISTINCT = ("qwen2_5_vl", "llava", "gemma4")

NEED_A_PICTURE = frozenset({"paligemma"})
"""The families that require a picture in every message."""


def with_each(kinds: Sequence[str], *, of_others: int) -> list[tuple[str, str]]:
    """Return pairs of a family and a kind of settings.

    ``make soak`` tests each family with each kind. Otherwise only three families whose code differs most have each
    kind, and each other family has ``of_others`` kinds, in turn.
    """
    pairs = []
    for at, family in enumerate(FAMILIES):
        first = of_others * at
        some = [kinds[n % len(kinds)] for n in range(first, first + of_others)]
        pairs += [(family, kind) for kind in (kinds if SOAK or family in _DISTINCT else some)]
    return pairs


def processor_inputs(processor: Any, content: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the model's inputs for a user's message, made by the processor of transformers."""
    made = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    # PaliGemma's labels are for training
    return {key: value for key, value in made.items() if key != "labels"}


def save_model(family: str, folder: Path) -> Path:
    """Save a model of this family with random weights to ``folder``."""
    torch.manual_seed(7)
    model, processor = BUILDERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "lm_head.weight":
                # large enough for some certain answers and for early readings that differ widely
                parameter.normal_(0, 4 / math.sqrt(parameter.shape[-1]))
            elif parameter.dim() > 1:
                parameter.normal_(0, 1.2 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
