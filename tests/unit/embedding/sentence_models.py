"""Small models in the format of sentence-transformers: CLIP, a text encoder with prompts, and a chat model.

The library is imported when a model is made, since each process of the tests imports this module.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tests.unit.fine.families.parts import make_tokenizer
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from retllm.settings import PRESETS

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPTS = {"query": "find: ", "passage": "text: "}


def _images() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def save_clip(folder: Path) -> Path:
    """Save a model with random weights for pictures and texts; its vectors have 16 dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    torch.manual_seed(0)
    tokenizer = make_tokenizer([])
    text = {**LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": 1}
    tokenizer.model_max_length = 24
    vision = {**LAYERS, "image_size": 32, "patch_size": 8}
    parts = folder.parent / f"{folder.name}-parts"
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(parts)
    CLIPProcessor(_images(), tokenizer).save_pretrained(parts)
    SentenceTransformer(modules=[Transformer(str(parts))], device="cpu").save(str(folder))
    return folder


def save_text(folder: Path, prompts: dict[str, str] | None = None) -> Path:
    """Save a model with random weights for texts only, its layers in folders of their own; 24 dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    tokenizer = make_tokenizer([])
    parts = folder.parent / f"{folder.name}-parts"
    BertModel(BertConfig(**LAYERS, vocab_size=len(tokenizer), max_position_embeddings=64)).save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    modules = [Transformer(str(parts), max_seq_length=64), Pooling(32), Dense(32, 24), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS if prompts is None else prompts)
    model.save(str(folder))
    return folder


def save_pictures(folder: Path) -> Path:
    """Save a model with random weights for pictures only; its vectors have 32 dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    parts = folder.parent / f"{folder.name}-parts"
    SiglipVisionModel(SiglipVisionConfig(**LAYERS, image_size=32, patch_size=8)).save_pretrained(parts)
    _images().save_pretrained(parts)
    SentenceTransformer(modules=[Transformer(str(parts)), Pooling(32)], device="cpu").save(str(folder))
    return folder


def save_chat(folder: Path) -> Path:
    """Save the shipped chat model as an embedder: the state of the last token; its prompts are system turns."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    parts = folder.parent / f"{folder.name}-parts"
    shutil.copytree(PRESETS["demo"].scorer, parts)
    backbone = Transformer(str(parts))
    modules = [backbone, Pooling(backbone.get_embedding_dimension(), "lasttoken"), Normalize()]
    prompts = {"query": "Find it.", "document": "Describe it."}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(folder))
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change a JSON object in a file, which may be missing."""
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**found, **changes}), "utf-8")
