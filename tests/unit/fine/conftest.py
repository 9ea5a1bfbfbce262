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


def make_tokenizer(special: list[str], words: str = WORDS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator([words] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [*SPECIAL, *special]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


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


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
}


def save_model(family: str, folder: Path) -> Path:
    """A model of this family with random weights, written to ``folder``."""
    torch.manual_seed(7)
    model, processor = BUILDERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
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
