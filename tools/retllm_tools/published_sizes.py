"""Models of published sizes with random weights, made on their device in seconds.

The numbers are those of the configurations published with Qwen3-VL-2B-Instruct, Qwen2.5-VL-7B-Instruct and
Qwen3-VL-8B-Instruct.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retllm.fine import Scorer
from retllm_tools.random_model import CHAT, PICTURE_MARKS, make_tokenizer

_VISION_3 = {"patch_size": 16, "num_position_embeddings": 2304, "num_heads": 16}
_TEXT_3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144}
_ROPE_3 = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_ROPE_25 = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}


@dataclass(frozen=True, slots=True)
class Published:
    """The numbers of a published configuration.

    Attributes:
        model: its name on the hub.
        classes: prefix of its classes in transformers.
        text, vision: of its parts.
        tied: whether the output projection has the weights of the input embeddings.
    """

    model: str
    classes: str
    text: dict[str, Any]
    vision: dict[str, Any]
    tied: bool = False


SIZES = {
    "2b": Published(
        "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen3VL",
        {
            **_TEXT_3,
            "rope_parameters": _ROPE_3,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
        },
        {
            **_VISION_3,
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        tied=True,
    ),
    "7b": Published(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen2_5_VL",
        {
            "vocab_size": 152_064,
            "rope_parameters": _ROPE_25,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128_000,
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
    "8b": Published(
        "Qwen/Qwen3-VL-8B-Instruct",
        "Qwen3VL",
        {
            **_TEXT_3,
            "rope_parameters": _ROPE_3,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
        },
        {
            **_VISION_3,
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
    ),
}
"""The published sizes by the names that ``retllm bench fine --size`` takes."""

# of the small model whose files stand for those of the large one; the vision tower keeps its number of layers
_SMALL_TEXT = {"hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
_SMALL_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 256}


def scorer_of_size(folder: Path, size: str, device: str, picture: int, captions: list[str]) -> Scorer:
    """Return a scorer with a model of a published size.

    Args:
        folder: gets a small model of the same family, with the processor, for libraries that insist on files.
        size: one of :data:`SIZES`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; the precision is bfloat16.
        picture: side of a picture in pixels, at which it is not scaled down.
        captions: the tokenizer is trained on them and on the prompts.

    Raises:
        ModelUnavailable: the device does not exist or has not enough memory.
    """
    from retllm.fine.device import pick_device
    from retllm.fine.model import ready_model
    from retllm.fine.prompts import load_prompts
    from retllm.fine.scorer import scorer_of
    from retllm.fine.sources import ModelSource

    published, chosen = SIZES[size], pick_device(device)
    processor = _processor(published, picture, captions)
    processor.save_pretrained(folder)
    small = _config(published, processor, _SMALL_TEXT, _SMALL_VISION)
    _class(published, "ForConditionalGeneration")(small).save_pretrained(folder)
    module = _on_device(published, _config(published, processor), chosen)
    source = ModelSource(published.model, "folder", folder, None, "It has random weights.")
    return scorer_of(ready_model(processor, module, source, "random", chosen, None, load_prompts(), None))


def save_model_of_size(folder: Path, size: str, device: str, picture: int, captions: list[str]) -> None:
    """Write a model of a published size with its processor, for processes that load it; see :func:`scorer_of_size`.

    Raises:
        ModelUnavailable: the device does not exist or has not enough memory.
    """
    from retllm.fine.device import pick_device

    published = SIZES[size]
    processor = _processor(published, picture, captions)
    processor.save_pretrained(folder)
    _on_device(published, _config(published, processor), pick_device(device)).save_pretrained(folder)


def _class(published: Published, name: str) -> Any:
    import transformers

    return getattr(transformers, published.classes + name)


def _config(
    published: Published, processor: Any, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None
) -> Any:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return _class(published, "Config")(
        text_config=published.text | {"tie_word_embeddings": published.tied} | (text or {}),
        vision_config=published.vision | (vision or {}),
        tie_word_embeddings=published.tied,
        **dict(zip(names, processor.tokenizer.convert_tokens_to_ids(PICTURE_MARKS), strict=True)),
    )


def _processor(published: Published, picture: int, captions: list[str]) -> Any:
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl import Qwen3VLVideoProcessor

    patch = int(published.vision.get("patch_size", 14))
    pixels = {"shortest_edge": (2 * patch) ** 2, "longest_edge": max(picture, 2 * patch) ** 2}
    videos = Qwen3VLVideoProcessor if published.classes == "Qwen3VL" else Qwen2VLVideoProcessor
    return _class(published, "Processor")(
        Qwen2VLImageProcessor(patch_size=patch, size=pixels), make_tokenizer(captions), videos(), chat_template=CHAT
    )


def _on_device(published: Published, config: Any, device: Any) -> Any:
    """Make the model with weights that are random numbers of the usual size, so that its answers are finite.

    Raises:
        ModelUnavailable: the device has not enough memory.
    """
    import torch
    from transformers.initialization import no_init_weights

    from retllm.errors import ModelUnavailable

    torch.manual_seed(0)
    try:
        with torch.device(device), no_init_weights():
            module = _class(published, "ForConditionalGeneration")._from_config(config, dtype=torch.bfloat16)
    except torch.OutOfMemoryError as error:
        raise ModelUnavailable(f"{published.model} does not fit into the memory of {device}.") from error
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.02)
            else:
                # of norms 1, and biases 0
                weight.fill_(float(name.endswith("weight")))
    module.tie_weights()
    return module
