"""Small image-text-to-text models of random weights, one of each family, saved to a folder as a real model would be.

They have wide initial weights, so that scores differ between pairs and the layers disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
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
"""Makes a model and its processor, by family."""

FAMILIES = list(BUILDERS)

NEED_A_PICTURE = frozenset({"paligemma"})
"""The families that take no message without a picture."""


def usual_inputs(processor: Any, content: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A user's message as transformers' own processor makes it for the model."""
    made = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    # PaliGemma's are for training
    return {key: value for key, value in made.items() if key != "labels"}


def save_model(family: str, folder: Path) -> Path:
    """A model of this family with random weights, written to ``folder``."""
    torch.manual_seed(7)
    model, processor = BUILDERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "lm_head.weight":
                # sure enough of some answers that early readings differ widely
                parameter.normal_(0, 4 / math.sqrt(parameter.shape[-1]))
            elif parameter.dim() > 1:
                parameter.normal_(0, 1.2 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
