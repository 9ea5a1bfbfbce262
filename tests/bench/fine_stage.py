"""What batching, sharing pictures and re-injection cost or save in the fine stage, as ratios within one run.

    python tests/bench/fine_stage.py                      # about 65 million parameters
    python tests/bench/fine_stage.py --width 256 --layers 8 --candidates 20 --json

Makes a Qwen2.5-VL of random weights of the given size, saves it to a temporary folder and scores with it as with
any model. Every variant is timed in turn, several rounds, and the medians are compared. On a CPU the processor's
time counts, on a GPU the clock's, so that other work on the machine matters little. Nothing here is asserted: a clock
proves nothing in a test.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from retllm.fine import Content, Injection, Scorer, load_scorer

SPECIAL = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_model(folder: Path, options: argparse.Namespace) -> int:
    """A Qwen2.5-VL of random weights in ``folder``; returns its number of parameters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["True False True False"] * 4, trainer)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = fast.convert_tokens_to_ids(SPECIAL)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": options.vocabulary,
            "hidden_size": options.width,
            "intermediate_size": options.width * 5,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.width // 64,
            "num_key_value_heads": max(1, options.width // 256),
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        },
        vision_config={
            "depth": 6,
            "hidden_size": options.width // 2,
            "intermediate_size": options.width * 2,
            "num_heads": max(1, options.width // 128),
            "out_hidden_size": options.width,
            "window_size": 112,
            "fullatt_block_indexes": [2, 5],
        },
        **dict(
            zip(("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), ids, strict=True)
        ),
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    size = {"shortest_edge": 28 * 28, "longest_edge": options.picture**2}
    images = Qwen2VLImageProcessor(size=size)
    Qwen2_5_VLProcessor(images, fast, Qwen2VLVideoProcessor(), chat_template=TEMPLATE).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def picture(seed: int, side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def all_logits(scorer: Scorer, query: Content, candidates: list[Content]) -> None:
    """The published code's shape of work: pair by pair, the head over every position of every layer."""
    loaded = scorer._loaded
    head, norm = loaded.decoder.head, loaded.decoder.trunk.norm

    def watch(_: Any, __: Any, output: Any) -> None:
        head(norm(output)).float().topk(10)

    handles = [layer.register_forward_hook(watch) for layer in loaded.decoder.layers]
    try:
        for at, candidate in enumerate(candidates):
            pair = loaded.preparer.pair(at, scorer._prompts.message("true_false", query, candidate))
            inputs = {key: value.to(loaded.module.device) for key, value in {**pair.tokens, **pair.vision}.items()}
            with torch.inference_mode():
                loaded.module(**inputs).logits[:, -1].softmax(-1).cpu()
    finally:
        for handle in handles:
            handle.remove()


def variants(scorer: Scorer, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    texts = [Content(text=f"caption {at} of some twenty characters, more or less") for at in range(options.candidates)]
    pictures = [Content(image=picture(at, options.picture)) for at in range(options.candidates)]
    text, image = texts[0], pictures[0]
    off = Injection(trigger="off")
    fixed = Injection(trigger="fixed", fixed_layer=scorer.info.layers // 3)
    # never triggers, though every layer in range is read: the price of watching
    watched = Injection(tau=1.0)
    always = Injection(tau=0.0)
    return {
        "published shape of work": lambda: all_logits(scorer, text, pictures),
        "one by one": lambda: [scorer.score(text, [one], off) for one in pictures],
        "one batch": lambda: scorer.score(text, pictures, off),
        "one batch, trigger watched": lambda: scorer.score(text, pictures, watched),
        "one batch, injected by entropy": lambda: scorer.score(text, pictures, always),
        "one batch, injected at a fixed layer": lambda: scorer.score(text, pictures, fixed),
        "one picture, texts one by one": lambda: [scorer.score(image, [one], off) for one in texts],
        "one picture, texts in one batch": lambda: scorer.score(image, texts, off),
    }


def measure(scorer: Scorer, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds of every variant, rounds interleaved."""
    on_gpu = scorer.info.device != "cpu"
    clock = time.perf_counter if on_gpu else time.process_time
    timed = variants(scorer, options)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(options.rounds + 1):
        for name, run in timed.items():
            started = clock()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seconds[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """The comparisons that matter; above 1 means the first is slower."""
    pairs = {
        "published shape / one by one": ("published shape of work", "one by one"),
        "one by one / one batch": ("one by one", "one batch"),
        "trigger watched / off": ("one batch, trigger watched", "one batch"),
        "injected by entropy / off": ("one batch, injected by entropy", "one batch"),
        "injected at a fixed layer / off": ("one batch, injected at a fixed layer", "one batch"),
        "one picture: one by one / one batch": ("one picture, texts one by one", "one picture, texts in one batch"),
    }
    return {name: round(seconds[first] / seconds[second], 3) for name, (first, second) in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--width", type=int, default=512, help="width of the text decoder, a multiple of 64")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--picture", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parameters = save_model(Path(folder), options)
        scorer = load_scorer(folder, device=options.device)
        tokens = scorer.score(Content(text="a"), [Content(image=picture(0, options.picture))])[0].tokens
        seconds = measure(scorer, options)
    result = {
        "parameters": parameters,
        "tokens_per_pair": tokens,
        "candidates": options.candidates,
        "device": scorer.info.device,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "ratios": ratios(seconds),
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{parameters / 1e6:.0f} M parameters, {tokens} tokens a pair, {options.candidates} candidates")
    for name, value in {**result["seconds"], **result["ratios"]}.items():  # type: ignore[dict-item]
        print(f"  {name:45s} {value}")


if __name__ == "__main__":
    main()
