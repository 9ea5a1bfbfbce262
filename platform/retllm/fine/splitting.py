"""Whether a model's questions may be taken apart into image prefix and tail: found out by trying, not by its name.

Models that look at the prompt in both directions, or that keep something else than keys and values, may not.
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

#: largest relative difference between both ways, by precision; a wrong mask or position makes several times more
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}

#: what a model raises that can't take its own cache back
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, RetllmError)


def splits_exactly(loaded: LoadedModel, features: PictureFeatures, prompts: Prompts, token_budget: int) -> bool:
    """Ask two questions about each of two pictures both ways, and compare the logits of the answers.

    The pictures differ in size, so that shorter prefixes are filled up as they are at work. Call it inside
    ``pictures_once`` and inference mode.
    """
    texts = ("a red square", "two small dogs that play on a beach")
    pictures = [Image.fromarray(_noise(seed, size)) for seed, size in enumerate(((96, 128), (160, 96)))]
    asks = [
        Prompt(0, prompts.message("true_false", Content(text=text), Content(image=picture)))
        for picture in pictures
        for text in texts
    ]
    try:
        whole, parts = (
            _logits(
                Engine(loaded, features, {}, OFF, OFF.plan(len(loaded.decoder.layers)), token_budget, prefixes), asks
            )
            for prefixes in (None, PrefixCache(0))
        )
    except _FAILURES as error:
        log.info("prefixes_not_used", reason=f"{type(error).__name__}: {error}"[:300])
        return False
    spread = (whole - whole.mean(dim=1, keepdim=True)).norm(dim=1)
    apart = float(((whole - parts).norm(dim=1) / spread).max())
    same = apart <= _TOLERANCE.get(loaded.module.dtype, 1e-3)
    log.info("prefixes_checked", difference=apart, used=same)
    return same


OFF = Injection(trigger="off")


def _noise(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _logits(engine: Engine, asks: Sequence[Prompt]) -> Tensor:
    answers = engine.answer(asks, lambda logits: logits.float()).read()
    return torch.tensor([answer.values for answer in answers])
