"""The small multimodal model: a Qwen3-VL of about two million parameters, with its processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from retllm.demo.scenes import EDGE
from retllm_tools.vocabulary import CHAT_TEMPLATE, chat_tokenizer

PATCH = 8
MERGE = 2
#: visual tokens along one edge of a 64 x 64 picture
GRID = EDGE // (PATCH * MERGE)


@dataclass(frozen=True)
class MllmShape:
    """The dimensions of the small model."""

    vision_depth: int = 3
    vision_width: int = 96
    text_depth: int = 6
    text_width: int = 128
    heads: int = 4
    key_value_heads: int = 2


def build_processor(seed: int) -> Qwen3VLProcessor:
    """Return the processor, which resizes pictures to about 64 x 64 pixels, 16 visual tokens."""
    tokenizer = chat_tokenizer(seed)
    pixels = {"shortest_edge": EDGE * EDGE, "longest_edge": EDGE * EDGE}
    grid: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": pixels}
    normal: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**grid, **normal),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**grid, **normal),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: Qwen3VLProcessor, shape: MllmShape | None = None) -> Qwen3VLForConditionalGeneration:
    """Return a model with random weights in float32 for the vocabulary of this processor.

    The rope theta is 100 instead of the default 500,000: the heads are 32 wide and the picture is a grid of 4 x 4
    tokens; with the default the frequencies of the width axis are too low to distinguish four columns.
    """
    shape = shape or MllmShape()
    token = processor.tokenizer.convert_tokens_to_ids
    head = shape.text_width // shape.heads
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(processor.tokenizer) // 16) * 16,
            "hidden_size": shape.text_width,
            "intermediate_size": 3 * shape.text_width,
            "num_hidden_layers": shape.text_depth,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "head_dim": head,
            "max_position_embeddings": 1024,
            "pad_token_id": processor.tokenizer.pad_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id,
            "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,
                "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": shape.vision_depth,
            "hidden_size": shape.vision_width,
            "intermediate_size": 4 * shape.vision_width,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": shape.text_width,
            "num_position_embeddings": (EDGE // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


def save(folder: Path, model: Any, processor: Any) -> None:
    """Save the model in half precision and its processor, for ``AutoProcessor`` and ``AutoModel...``.

    ``model`` itself does not change.
    """
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    copy: Any = Qwen3VLForConditionalGeneration(model.config)
    copy.half()
    copy.load_state_dict(state)
    copy.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    copy.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    copy.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any]:
    """Load the model in float32 and its processor from a folder of ``save``, without network access."""
    processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model.eval(), processor
