"""Google's families Gemma 3, Gemma 4 and PaliGemma: attention between the positions of a picture is bidirectional."""

from __future__ import annotations

from typing import Any

from tests.unit.fine.families.parts import chat_template, make_tokenizer, text_config, vision_config


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = make_tokenizer(list(named.values()), **named)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma3Config(
        text_config={**text_config(len(tokenizer), head_dim=8, sliding_window=24), "layer_types": None},
        vision_config={"image_size": 16, "patch_size": 4, "vision_use_head": False, **vision_config()},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token_id"],
        eoi_token_index=ids["eoi_token_id"],
        image_token_index=ids["image_token_id"],
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 16, "width": 16}, do_pan_and_scan=False),
        tokenizer,
        image_seq_length=4,
        chat_template=chat_template("<start_of_image>"),
    )
    return Gemma3ForConditionalGeneration(config), processor


def gemma4_config(vocabulary: int, ids: dict[str, int], **text: Any) -> Any:
    from transformers import Gemma4Config

    return Gemma4Config(
        text_config=text_config(
            vocabulary, head_dim=8, global_head_dim=8, sliding_window=24, final_logit_softcapping=30.0,
            vocab_size_per_layer_input=vocabulary, hidden_size_per_layer_input=4, num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 3, use_bidirectional_attention="vision", **text,
        ),
        vision_config={
            **vision_config(), "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4,
            "position_embedding_size": 512, "pooling_kernel_size": 2,
        },
        tie_word_embeddings=False,
        **ids,
    )  # fmt: skip


def gemma4() -> tuple[Any, Any]:
    """Takes pictures of any shape; every layer has its own embedding, and the last two reuse keys and values."""
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4ForConditionalGeneration,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    named = {
        "boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
        "boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>",
    }  # fmt: skip
    tokenizer = make_tokenizer([*named.values(), "<|video|>"], **named)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    ids["eoa_token_index"] = ids.pop("eoa_token_id")
    ids["video_token_id"] = tokenizer.convert_tokens_to_ids("<|video|>")
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer,
        Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        image_seq_length=70,
        chat_template=chat_template("<|image|>"),
    )
    model = Gemma4ForConditionalGeneration(gemma4_config(len(tokenizer), ids))
    for layer in model.get_decoder().layers:
        # its attention does not scale: with weights of 1, rounding errors would grow a thousandfold
        layer.self_attn.q_norm.weight.data.fill_(8**-0.5)
    return model, processor


def paligemma() -> tuple[Any, Any]:
    """Attends to the whole question in both directions, including the text; requires a picture in every message."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = make_tokenizer(["<image>", "<bos>"], image_token="<image>")
    tokenizer.bos_token = "<bos>"
    size = {"height": 16, "width": 16}
    images = SiglipImageProcessor(size=size)
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=chat_template("<image>"))
    # the processor adds more than a thousand location tokens
    vocabulary = len(tokenizer)
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **text_config(vocabulary, head_dim=8), "num_key_value_heads": 1},
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
            **vision_config(),
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )
    return PaliGemmaForConditionalGeneration(config), processor
