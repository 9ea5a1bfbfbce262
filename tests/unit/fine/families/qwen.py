"""Qwen2-VL and its successors: pictures of any size, positions in three dimensions."""

from __future__ import annotations

from typing import Any

from tests.unit.fine.families.parts import WORDS, chat_template, make_tokenizer, mrope, text_config

QWEN_TOKENS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = ("image", "video", "vision_start", "vision_end")
    ids = tokenizer.convert_tokens_to_ids(QWEN_TOKENS)
    return {f"{name}_token_id": number for name, number in zip(names, ids, strict=True)}


def qwen2_vl() -> tuple[Any, Any]:
    """Its vision tower has full attention over a whole picture in every layer."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    config = Qwen2VLConfig(
        text_config=text_config(len(tokenizer), **mrope([1, 1, 2])),
        vision_config={
            "depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2,
            "hidden_size": 32,
        },
        **_qwen_ids(tokenizer),
    )  # fmt: skip
    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, size=size)
    videos = Qwen2VLVideoProcessor(patch_size=4, merge_size=2)
    processor = Qwen2VLProcessor(images, tokenizer, videos, chat_template=chat_template(QWEN_IMAGE))
    return Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    config = Qwen2_5_VLConfig(
        text_config=text_config(len(tokenizer), **mrope([1, 1, 2])),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1],
        },
        **_qwen_ids(tokenizer),
    )  # fmt: skip
    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, size=size)
    videos = Qwen2VLVideoProcessor(patch_size=4, merge_size=2)
    processor = Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=chat_template(QWEN_IMAGE))
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl(words: str = WORDS) -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS, words)
    config = Qwen3VLConfig(
        text_config=text_config(len(tokenizer), head_dim=8, **mrope([2, 1, 1])),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_qwen_ids(tokenizer),
    )  # fmt: skip
    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, size=size)
    videos = Qwen3VLVideoProcessor(patch_size=4, merge_size=2)
    processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template=chat_template(QWEN_IMAGE))
    return Qwen3VLForConditionalGeneration(config), processor


def qwen3_5() -> tuple[Any, Any]:
    """Two of three layers have linear attention."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    kinds = ["linear_attention", "linear_attention", "full_attention"] * 2
    rope = mrope([2, 1, 1])
    rope["rope_parameters"]["partial_rotary_factor"] = 1.0
    config = Qwen3_5Config(
        text_config=text_config(len(tokenizer), head_dim=8, layer_types=kinds, **linear, **heads, **rope),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64,
        },
        **_qwen_ids(tokenizer),
    )  # fmt: skip
    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, size=size)
    videos = Qwen3VLVideoProcessor(patch_size=4, merge_size=2)
    processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template=chat_template(QWEN_IMAGE))
    return Qwen3_5ForConditionalGeneration(config), processor


def glm4v() -> tuple[Any, Any]:
    """The gate and up projections of its feed-forward network are one matrix."""
    from transformers import (
        Glm4vConfig,
        Glm4vForConditionalGeneration,
        Glm4vImageProcessor,
        Glm4vProcessor,
        Glm4vVideoProcessor,
    )

    special = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    tokenizer = make_tokenizer(list(special.values()), image_token="<|image|>", video_token="<|video|>")
    rope = mrope([1, 1, 2])
    rope["rope_parameters"]["partial_rotary_factor"] = 1.0
    config = Glm4vConfig(
        text_config=text_config(len(tokenizer), **rope),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "out_hidden_size": 32, "image_size": 32,
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()},
    )  # fmt: skip
    images = Glm4vImageProcessor(patch_size=4, merge_size=2, size={"shortest_edge": 128, "longest_edge": 2048})
    videos = Glm4vVideoProcessor(patch_size=4, merge_size=2)
    template = chat_template("<|begin_of_image|><|image|><|end_of_image|>")
    return Glm4vForConditionalGeneration(config), Glm4vProcessor(images, tokenizer, videos, chat_template=template)
