"""The first stage of training the small multimodal model: train the vision tower without text.

A linear head on each of the 16 visual tokens predicts whether the centre of an object lies in its cell of the picture,
and the size, colour and shape of that object. The head is discarded afterwards. Without this stage the model learns
shapes last, and forgets them when it learns to judge captions.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from retllm.demo.scenes import (
    COLOURS,
    EDGE,
    SHAPES,
    SIZES,
    Scene,
    Single,
    centres,
    random_scene,
    random_single,
    render,
)
from retllm_tools.mllm import GRID, PATCH, build_model

log = structlog.get_logger(__name__)

_KINDS = (("size", SIZES), ("colour", tuple(COLOURS)), ("shape", SHAPES))
_NOTHING = -1
#: outputs of the head for a cell: size, colour and shape, then presence
_WIDTHS = [*(len(options) for _, options in _KINDS), 1]


@dataclass(frozen=True)
class SightRecipe:
    """The settings of the first stage."""

    steps: int = 1200
    pictures: int = 64
    learning_rate: float = 2e-3
    warm_up: int = 100
    #: seed of the initial weights; the pictures depend on the seed of the whole training
    weights_seed: int = 0
    #: final learning rate as a share of the maximum
    least_rate: float = 0.05
    singles: float = 0.2

    def rate(self, step: int) -> float:
        """Return the learning rate: linear warm-up and cosine decay to the minimum."""
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        warm = min(1.0, (step + 1) / self.warm_up)
        return self.learning_rate * warm * (decay * (1 - self.least_rate) + self.least_rate)


def rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to zero at ``steps``."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def patches(scenes: Sequence[Scene | Single]) -> Tensor:
    """Return the pictures of the scenes as the image processor of the model does: (B * patches, values), in [-1, 1].

    Patches are in the order of the visual tokens that they are merged into, each twice, for two frames.
    """
    drawn = torch.stack([torch.from_numpy(np.array(render(scene))) for scene in scenes]).float().permute(0, 3, 1, 2)
    side = EDGE // PATCH // GRID
    cut = ((drawn / 255 - 0.5) / 0.5).reshape(len(scenes), 3, GRID, side, PATCH, GRID, side, PATCH)
    ordered = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    return ordered.expand(*[-1] * 6, 2, -1, -1).reshape(-1, 3 * 2 * PATCH * PATCH).contiguous()


def cells(scene: Scene | Single) -> Tensor:
    """Return the targets of the head: (GRID * GRID, 3) indices of size, colour and shape; -1 without a centre."""
    targets = torch.full((GRID * GRID, len(_KINDS)), _NOTHING)
    side = EDGE // GRID
    for scene_object, (x, y) in centres(scene):
        row = [options.index(getattr(scene_object, kind)) for kind, options in _KINDS]
        targets[int(y // side) * GRID + int(x // side)] = torch.tensor(row)
    return targets


def sight_loss(answers: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return loss and accuracies of ``answers`` (B, cells, sum of _WIDTHS) against ``targets`` (B, cells, 3)."""
    here = targets[..., 0] != _NOTHING
    *kinds, presence = torch.split(answers, _WIDTHS, dim=-1)
    loss = 2 * F.binary_cross_entropy_with_logits(presence[..., 0], here.float())
    accuracy: dict[str, float] = {}
    for index, ((kind, _), answer) in enumerate(zip(_KINDS, kinds, strict=True)):
        target = targets[here][:, index]
        loss = loss + F.cross_entropy(answer[here], target)
        accuracy[kind] = round((answer[here].argmax(-1) == target).float().mean().item(), 3)
    return loss, accuracy


def _pictures(rng: random.Random, recipe: SightRecipe) -> Sequence[Scene | Single]:
    return [
        random_single(rng) if rng.random() < recipe.singles else random_scene(rng, held_out=False)
        for _ in range(recipe.pictures)
    ]


def train_sight(processor: Any, seed: int, recipe: SightRecipe | None = None) -> tuple[Any, dict[str, float]]:
    """Return a new model with a trained vision tower, and the accuracies of the last step with the seconds."""
    recipe = recipe or SightRecipe()
    started = time.monotonic()
    torch.manual_seed(recipe.weights_seed)
    model: Any = build_model(processor)
    visible = model.config.vision_config.out_hidden_size
    head = nn.Linear(visible, sum(_WIDTHS))
    parameters = [*model.model.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    grid = torch.tensor([[1, EDGE // PATCH, EDGE // PATCH]] * recipe.pictures)
    accuracy: dict[str, float] = {}
    for step in range(recipe.steps):
        scenes = _pictures(random.Random(10_000 * seed + step), recipe)
        features = model.model.get_image_features(patches(scenes), grid, return_dict=True)
        loss, accuracy = sight_loss(head(torch.stack(features.pooler_output)), torch.stack([cells(s) for s in scenes]))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            log.info("sight", step=step + 1, loss=round(loss.item(), 4), **accuracy)
    return model, {**accuracy, "seconds": round(time.monotonic() - started, 1)}
