"""A multimodal model with random weights and a given size, saved like any model.

Speed does not depend on the values of the weights, so measurements hold for a trained model of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retllm.fine import Content, load_prompts

_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PICTURE_MARKS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PATCH = 28  # side in pixels of the square that becomes one visual token


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a Qwen2.5-VL.

    Attributes:
        width: of the text decoder; a multiple of 64.
        layers: of the text decoder.
        vocabulary: tokens; the output projection has as many rows. The default is that of Qwen2.5.
        picture: side of a picture in pixels; (picture / 28)**2 visual tokens.
    """

    width: int = 512
    layers: int = 12
    vocabulary: int = 151_936
    picture: int = 224


def save_random_model(folder: Path, size: Size, captions: list[str]) -> int:
    """Save a model to ``folder``, with a tokenizer trained on the prompts and ``captions``.

    Returns:
        The number of parameters.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = make_tokenizer(captions)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size.vocabulary,
            "hidden_size": size.width,
            "intermediate_size": size.width * 5,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.width // 64,
            "num_key_value_heads": max(1, size.width // 256),
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 6,
            "hidden_size": size.width // 2,
            "intermediate_size": size.width * 2,
            "num_heads": max(1, size.width // 128),
            "out_hidden_size": size.width,
            "window_size": 112,
            "fullatt_block_indexes": [2, 5],
        },
        **dict(zip(names, tokenizer.convert_tokens_to_ids(PICTURE_MARKS), strict=True)),
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    pixels = {"shortest_edge": _PATCH**2, "longest_edge": size.picture**2}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=pixels), tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT
    )
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_tokenizer(captions: list[str]) -> Any:
    """Return a byte-level tokenizer in which the words of the prompts are single tokens, as in real ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1
    )
    message = load_prompts().message("true_false", Content(text="a"), Content(text="b"))
    templates = [part for parts in load_prompts().pairs.values() for part in parts]
    texts = [*(part for part in message if isinstance(part, str)), *templates, *captions, "True False user assistant"]
    tokenizer.train_from_iterator(texts * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [*_MARKS, *PICTURE_MARKS]])
    roles = {"eos_token": _MARKS[2], "pad_token": _MARKS[0]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
