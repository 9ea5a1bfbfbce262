"""The LLaVA families: a vision tower, a projector, and a language model of another family."""

from __future__ import annotations

from typing import Any

from tests.unit.fine.families.parts import chat_template, make_tokenizer, text_config, vision_config


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = make_tokenizer(["<image>"])
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_config(len(tokenizer))},
        vision_config={"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4, **vision_config()},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )
    return LlavaForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = make_tokenizer(["<image>", "<video>"])
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(len(tokenizer))},
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
            **vision_config(),
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    size = {"height": 16, "width": 16}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    """Takes a picture as a whole and in tiles, with a token at the end of each row."""
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = make_tokenizer(["<image>"])
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    config = LlavaNextConfig(
        text_config={"model_type": "mistral", **text_config(len(tokenizer), head_dim=8)},
        vision_config={"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4, **vision_config()},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )
    return LlavaNextForConditionalGeneration(config), processor
