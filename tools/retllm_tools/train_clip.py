"""Training of the small CLIP model: contrastive learning on pictures and captions of the training scenes.

The model is small on purpose. Like large CLIP models it learns which objects are in a picture long before it learns
where they are, which the fine stage makes up for.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import structlog
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from retllm.demo.claims import caption, random_claim
from retllm.demo.scenes import EDGE, random_scene, render
from retllm.demo.variants import gallery
from retllm_tools.vocabulary import clip_tokenizer

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ClipRecipe:
    """The settings of one training run of the small CLIP."""

    steps: int = 2400
    batch: int = 128
    #: number of pictures, drawn once before the first step; each is used several times with different captions
    drawn: int = 24_000
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    embedding: int = 48
    vision_width: int = 96
    vision_layers: int = 2
    text_width: int = 64
    text_layers: int = 1


def clip_config(recipe: ClipRecipe, vocabulary: int, eos_id: int) -> dict[str, Any]:
    """The content of ``open_clip_config.json``."""
    return {
        "model_cfg": {
            "embed_dim": recipe.embedding,
            "vision_cfg": {
                "image_size": EDGE,
                "patch_size": 8,
                "width": recipe.vision_width,
                "layers": recipe.vision_layers,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": 40,
                "vocab_size": vocabulary,
                "width": recipe.text_width,
                "heads": 2,
                "layers": recipe.text_layers,
                # open_clip reads the tokenizer from the model's own folder when this is set
                "hf_tokenizer_name": "retllm-demo-clip",
                "pool_type": "eos",
                "eos_id": eos_id,
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
    }


def recall(similarity: torch.Tensor, ranks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Return the recall at each rank; the right column of row i is i."""
    right = similarity.diagonal().unsqueeze(1)
    place = (similarity > right).sum(1)
    return {f"r@{rank}": round((place < rank).float().mean().item(), 4) for rank in ranks}


def measure(model: Any, preprocess: Any, tokenizer: Any, seed: int, families: int = 64) -> dict[str, float]:
    """Return the text-to-image recall in a gallery of held-out families."""
    scenes = [scene for members in gallery(families, seed) for scene in members]
    model.eval()
    with torch.inference_mode():
        images = model.encode_image(torch.stack([preprocess(render(scene)) for scene in scenes]), normalize=True)
        texts = model.encode_text(tokenizer([caption(scene) for scene in scenes]), normalize=True)
    model.train()
    return recall(texts @ images.T)


def train_clip(folder: Path, seed: int, recipe: ClipRecipe | None = None) -> dict[str, Any]:
    """Train from ``seed``, save config, tokenizer and half-precision weights to ``folder``, and return the metrics."""
    recipe = recipe or ClipRecipe()
    started = time.monotonic()
    torch.manual_seed(seed)
    rng = random.Random(f"clip/{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    words = clip_tokenizer(seed)
    words.save_pretrained(folder)
    config = clip_config(recipe, len(words), words.eos_token_id)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    for old in folder.glob("*.safetensors"):
        old.unlink()
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=recipe.warm_up / recipe.steps
    )
    targets = torch.arange(recipe.batch)
    model.train()
    drawn = [random_scene(rng, held_out=False) for _ in range(recipe.drawn)]
    # half precision to save memory
    pictures = torch.stack([preprocess(render(scene)).half() for scene in drawn])
    for step in range(recipe.steps):
        chosen = rng.sample(range(recipe.drawn), recipe.batch)
        texts = tokenizer([str(random_claim(drawn[index], rng, extra_share=0.9)) for index in chosen])
        # bfloat16 with float32 weights: faster on a CPU that has it
        with torch.autocast("cpu", torch.bfloat16):
            image, text, scale = model(pictures[chosen].float(), texts)[:3]
        logits = scale * image.float() @ text.float().T
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6052)
        if step % 100 == 0:
            log.info("clip", step=step, loss=round(loss.item(), 4), seconds=round(time.monotonic() - started))
    save_file(
        {key: value.half().contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    figures = {
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.monotonic() - started, 1),
        "recipe": vars(recipe),
        "development_gallery": measure(model, preprocess, tokenizer, seed=1),
    }
    (folder / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures
