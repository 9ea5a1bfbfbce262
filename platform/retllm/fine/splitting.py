"""Test whether a model's questions can be split into image prefix and tail, by computing both ways.

They can't for models that attend to the prompt in both directions, or that cache other state than keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import structlog
import torch
from PIL import Image
from torch import Tensor

from retllm.errors import RetllmError
from retllm.fine.content import Content
from retllm.fine.engine import Engine, Prompt
from retllm.fine.injection import Injection
from retllm.fine.model import LoadedModel
from retllm.fine.prefix import PrefixCache
from retllm.fine.prompts import Prompts
from retllm.fine.vision import PictureFeatures

log = structlog.get_logger(__name__)

#: maximum relative difference between both ways, by precision; a wrong mask or position causes several times more
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}

#: what models raise that can't continue from a cache
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, RetllmError)


def splits_exactly(loaded: LoadedModel, features: PictureFeatures, prompts: Prompts, token_budget: int) -> bool:
    """Compute two questions about each of two pictures, whole and split, and compare the logits.

    The pictures differ in size, so that the shorter prefix is padded. Call it inside ``pictures_once`` and inference
    mode.
    """
    texts = ("a red square", "two small dogs that play on a beach")
    pictures = [Image.fromarray(_noise(seed, size)) for seed, size in enumerate(((96, 128), (160, 96)))]
    questions = [
        Prompt(0, prompts.message("true_false", Content(text=text), Content(image=picture)))
        for picture in pictures
        for text in texts
    ]
    try:
        whole, parts = (
            _logits(
                Engine(loaded, features, {}, OFF, OFF.plan(len(loaded.decoder.layers)), token_budget, prefixes),
                questions,
            )
            for prefixes in (None, PrefixCache(0))
        )
    except _FAILURES as error:
        log.info("prefixes_not_used", reason=f"{type(error).__name__}: {error}"[:300])
        return False
    spread = (whole - whole.mean(dim=1, keepdim=True)).norm(dim=1)
    difference = float(((whole - parts).norm(dim=1) / spread).max())
    same = difference <= _TOLERANCE.get(loaded.module.dtype, 1e-3)
    log.info("prefixes_checked", difference=difference, used=same)
    return same


OFF = Injection(trigger="off")


def _noise(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _logits(engine: Engine, questions: Sequence[Prompt]) -> Tensor:
    answers = engine.answer(questions, lambda logits: logits.float()).read()
    return torch.tensor([answer.values for answer in answers])
