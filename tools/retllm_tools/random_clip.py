"""An open_clip model with random weights and the shape of a named architecture, saved like any model.

Speed does not depend on the values of the weights, so measurements hold for trained weights of that architecture.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from retllm.embedding.sources import CONFIG, WEIGHTS
from retllm.errors import InvalidInput

_MEAN_AND_STD = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}


def save_random_clip(folder: Path, architecture: str) -> str:
    """Save a model of the architecture (such as ``ViT-B-32``) with random weights; return its name for open_clip.

    Raises:
        InvalidInput: open_clip has no such architecture.
    """
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise InvalidInput(f"open_clip has no architecture {architecture!r}.", field="architecture")
    torch.manual_seed(0)
    model = open_clip.create_model(architecture)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS[0])
    described = {"model_cfg": config, "preprocess_cfg": _MEAN_AND_STD}
    (folder / CONFIG).write_text(json.dumps(described), encoding="utf-8")
    return f"local-dir:{folder}"
