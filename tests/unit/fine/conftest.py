"""Small image-text-to-text models of random weights, saved to a folder as a real model would be.

They have wide initial weights, so that scores differ between pairs and the layers disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retllm.fine import Scorer, load_scorer

torch.set_num_threads(1)

WORDS = (
    "True False Does the image match the caption Please directly output True or False. a red square is left of "
    "a small blue circle. Query text Candidate text user assistant True False True False"
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}IMAGE"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
LAYERS = 6


def make_tokenizer(special: list[str], words: str = WORDS, **named: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator([words] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [*SPECIAL, *special]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )


def chat_template(image: str) -> str:
    return CHAT.replace("IMAGE", image)


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        **more,
    }


def _mrope(section: list[int]) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}}


QWEN_TOKENS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = ("image", "video", "vision_start", "vision_end")
    ids = tokenizer.convert_tokens_to_ids(QWEN_TOKENS)
    return {f"{name}_token_id": number for name, number in zip(names, ids, strict=True)}


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    config = Qwen2_5_VLConfig(
        text_config=_text(len(tokenizer), **_mrope([1, 1, 2])),
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


def qwen3_vl() -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    config = Qwen3VLConfig(
        text_config=_text(len(tokenizer), head_dim=8, **_mrope([2, 1, 1])),
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
    """Two of three layers attend linearly; one head in four turns with the position."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = make_tokenizer(QWEN_TOKENS)
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    kinds = ["linear_attention", "linear_attention", "full_attention"] * 2
    rope = _mrope([2, 1, 1])
    rope["rope_parameters"]["partial_rotary_factor"] = 1.0
    config = Qwen3_5Config(
        text_config=_text(len(tokenizer), head_dim=8, layer_types=kinds, **linear, **heads, **rope),
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
    """The two input projections of its feed-forward network are one matrix."""
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
    rope = _mrope([1, 1, 2])
    rope["rope_parameters"]["partial_rotary_factor"] = 1.0
    config = Glm4vConfig(
        text_config=_text(len(tokenizer), **rope),
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


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = make_tokenizer(["<image>"])
    config = LlavaConfig(
        text_config={"model_type": "llama", **_text(len(tokenizer))},
        vision_config={"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4, **_vision()},
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
        text_config={"model_type": "qwen2", **_text(len(tokenizer))},
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
            **_vision(),
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


def idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    tokenizer = make_tokenizer(["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    config = Idefics3Config(
        text_config={"model_type": "llama", **_text(len(tokenizer)), "pad_token_id": tokenizer.pad_token_id},
        vision_config={"image_size": 32, "patch_size": 4, **_vision()},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=16, chat_template=chat_template("<image>"))
    return Idefics3ForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = make_tokenizer(list(named.values()), **named)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma3Config(
        text_config={**_text(len(tokenizer), head_dim=8, sliding_window=24), "layer_types": None},
        vision_config={"image_size": 16, "patch_size": 4, "vision_use_head": False, **_vision()},
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
        text_config={"model_type": "qwen2", **_text(len(tokenizer))},
        vision_config={"image_size": [16, 16], "patch_size": [4, 4], **_vision()},
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


def _vision() -> dict[str, int]:
    return {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "glm4v": glm4v,
    "llava": llava,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "gemma3": gemma3,
    "internvl": internvl,
}


def save_model(family: str, folder: Path) -> Path:
    """A model of this family with random weights, written to ``folder``."""
    torch.manual_seed(7)
    model, processor = BUILDERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "lm_head.weight":
                # sure enough of some answers that early readings differ widely
                parameter.normal_(0, 4 / math.sqrt(parameter.shape[-1]))
            elif parameter.dim() > 1:
                parameter.normal_(0, 1.2 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a saved model of a family, made once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_model(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def scorer_of(model_folder: Callable[[str], Path]) -> Callable[[str], Scorer]:
    """Gives a loaded scorer of a family, loaded once."""
    loaded: dict[str, Scorer] = {}

    def scorer(family: str) -> Scorer:
        if family not in loaded:
            loaded[family] = load_scorer(str(model_folder(family)), device="cpu")
        return loaded[family]

    return scorer


@pytest.fixture(params=list(BUILDERS))
def scorer(request: pytest.FixtureRequest, scorer_of: Callable[[str], Scorer]) -> Scorer:
    """A scorer of every family in turn."""
    return scorer_of(request.param)


@pytest.fixture
def qwen(scorer_of: Callable[[str], Scorer]) -> Scorer:
    """A scorer of one family, for what does not depend on the family."""
    return scorer_of("qwen2_5_vl")
