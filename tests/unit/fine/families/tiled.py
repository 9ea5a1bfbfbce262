"""Families that split a picture into tiles or keep its shape: Idefics 3, SmolVLM, InternVL, Mistral 3."""

from __future__ import annotations

from typing import Any

from tests.unit.fine.families.parts import chat_template, make_tokenizer, text_config, vision_config


def idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    tokenizer = make_tokenizer(["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    config = Idefics3Config(
        text_config={"model_type": "llama", **text_config(len(tokenizer)), "pad_token_id": tokenizer.pad_token_id},
        vision_config={"image_size": 32, "patch_size": 4, **vision_config()},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=16, chat_template=chat_template("<image>"))
    return Idefics3ForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(list(named.values()), **named)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_config(len(tokenizer))},
        vision_config={"image_size": [16, 16], "patch_size": [4, 4], **vision_config()},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessor(size={"height": 16, "width": 16}, crop_to_patches=True, max_patches=4)
    processor = InternVLProcessor(
        images,
        tokenizer,
        InternVLVideoProcessor(size={"height": 16, "width": 16}),
        image_seq_length=4,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>"]
    tokenizer = make_tokenizer(special)
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **text_config(len(tokenizer)), "pad_token_id": tokenizer.pad_token_id},
        vision_config={"image_size": 32, "patch_size": 4, **vision_config()},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
    )
    edges = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    images = SmolVLMImageProcessor(do_image_splitting=True, **edges)
    videos = SmolVLMVideoProcessor(num_frames=2, fps=1, **edges)
    processor = SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=chat_template("<image>"))
    return SmolVLMForConditionalGeneration(config), processor


def mistral3() -> tuple[Any, Any]:
    """Keeps a picture's shape and puts tokens that are not visual ones between its rows."""
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PixtralImageProcessor,
        PixtralProcessor,
    )

    tokenizer = make_tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    config = Mistral3Config(
        text_config={"model_type": "mistral", **text_config(len(tokenizer), head_dim=8)},
        vision_config={"model_type": "pixtral", "image_size": 32, "patch_size": 4, "head_dim": 16, **vision_config()},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 8, "width": 8}),
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=chat_template("[IMG]"),
    )
    return Mistral3ForConditionalGeneration(config), processor
