"""The byte-level BPE tokenizer of both small models: it encodes any text, and the demo's words as single tokens."""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from retllm.demo.claims import place_claim, random_claim
from retllm.demo.scenes import COLOURS, PLACES, RELATIONS, SHAPES, SIZES, random_scene, random_single

VOCABULARY = 768
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
#: the prompt of the captioning stage of the small MLLM
DESCRIBE = "Describe the image."

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def _prompts() -> dict[str, Any]:
    return tomllib.loads(files("retllm.fine").joinpath("prompts.toml").read_text())


def question_template(pair: str) -> str:
    """Return the prompt text after the picture for ``pair`` ("text->image") in true_false mode."""
    prompts = _prompts()
    (piece,) = [piece for piece in prompts["pairs"][pair] if not piece.startswith("@")]
    return str(piece).replace("{ask}", prompts["ask"]["true_false"])


def question_texts() -> list[str]:
    """Return all texts of the prompt file in true_false mode."""
    prompts = _prompts()
    pieces = itertools.chain.from_iterable(prompts["pairs"].values())
    return [piece.replace("{ask}", prompts["ask"]["true_false"]) for piece in pieces if not piece.startswith("@")]


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    words = [*COLOURS, *SHAPES, *SIZES, *RELATIONS, *PLACES]
    for _ in range(400):
        yield str(random_claim(random_scene(rng, held_out=False), rng))
        yield str(place_claim(random_single(rng), rng))
        yield "a " + " a ".join(rng.sample(words, 3))
    # answers as single words, so that they become single tokens with and without a leading space
    for _ in range(200):
        yield from ("True", "False", " True", " False", "user", "assistant", DESCRIBE, *question_texts())


def _train_bpe(seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    return tokenizer


def chat_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the small MLLM, with the chat template and special tokens of a Qwen processor."""
    tokenizer: PreTrainedTokenizerFast = Qwen2Tokenizer(
        tokenizer_object=_train_bpe(seed),
        unk_token=None,  # byte-level: nothing is unknown
        **_ROLES,
        extra_special_tokens=list(SPECIALS[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )
    return tokenizer


def clip_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the small CLIP: the same tokens, each text between a start and an end token."""
    bpe = _train_bpe(seed)
    start, end = "<|im_start|>", "<|im_end|>"
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, bpe.token_to_id(start)), (end, bpe.token_to_id(end))],
    )
    options: dict[str, Any] = {"tokenizer_object": bpe, "bos_token": start, "model_max_length": 64, **_ROLES}
    return PreTrainedTokenizerFast(**options)
