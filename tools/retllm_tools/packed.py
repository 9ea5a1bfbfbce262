"""One forward pass over pictures with several questions each: the picture's prefix is read once and shared.

Training only. Its result equals that of the plain model on each prompt alone, which a test holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from retllm_tools.mllm import GRID


@dataclass(frozen=True)
class Segment:
    """What follows the picture in one prompt, position by position.

    ``targets`` are the tokens of the answer (-100: none). The other two are aids of the training: ``told`` holds the
    next token inside a true caption (-100 elsewhere), ``sound`` whether the caption is still true as far as it has been
    read (1 or 0; -1 where that is not known).
    """

    tokens: list[int]
    targets: list[int]
    told: list[int]
    sound: list[int]

    def after(self, start: int) -> Segment:
        """The segment without its first ``start`` positions."""
        return Segment(self.tokens[start:], self.targets[start:], self.told[start:], self.sound[start:])


@dataclass(frozen=True)
class Packed:
    """B pictures with the same number n of segments each."""

    pixels: Tensor  # (B * patches, channels * 2 * patch * patch)
    grid: Tensor  # (B, 3)
    prefix: Tensor  # (P,), the picture's place and the words that all prompts of the batch share
    tokens: Tensor  # (B * n, S), right-padded
    targets: Tensor  # (B * n, S), -100 where nothing is predicted
    told: Tensor  # (B * n, S), -100 where nothing is told
    sound: Tensor  # (B * n, S), -1 where not known


class Packer:
    """Turns pictures and texts into ``Packed`` batches, by the processor that the saved model is used with."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        content = [{"type": "image"}, {"type": "text", "text": "@"}]
        chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        prefix, suffix = chat.split("<|image_pad|>")
        self._before, self._after = suffix.removeprefix("<|vision_end|>").split("@")
        self.prefix = torch.tensor(self._encode([prefix + "<|image_pad|>" * GRID * GRID + "<|vision_end|>"])[0])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        tokens: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return tokens

    def segments(self, questions: Sequence[str], answers: Sequence[str], whole: bool) -> list[Segment]:
        """Question and answer as tokens; with ``whole`` the end of the answer is a target as well."""
        end = "<|im_end|>" if whole else ""
        asked = self._encode([f"{self._before}{question}{self._after}" for question in questions])
        told = self._encode([answer + end for answer in answers])
        made = []
        for ask, tell in zip(asked, told, strict=True):
            size = len(ask) + len(tell) - 1
            made.append(Segment(ask + tell[:-1], [-100] * (len(ask) - 1) + tell, [-100] * size, [-1] * size))
        return made

    def judged(self, questions: Sequence[str], answers: Sequence[str], opening: str, ending: str) -> list[Segment]:
        """Segments of questions that alternate between a true caption and a false one made from it, with the aids.

        Args:
            questions: true, false, true, false, ...
            answers: theirs.
            opening, ending: what every question says before its caption and after it.
        """
        plain = self.segments(questions, answers, whole=False)
        start = len(self._encode([self._before + opening])[0])
        closing = len(self._encode([ending + self._after])[0])
        made: list[Segment] = []
        for true, false in zip(plain[::2], plain[1::2], strict=True):
            head, tail = _common(true.tokens, false.tokens)
            # the false caption is true before the difference, and false from the difference's end on
            broken = max(len(false.tokens) - tail - 1, head)
            told = [-100] * start + true.tokens[start + 1 : len(true.tokens) - closing]
            told += [-100] * (len(true.tokens) - len(told))
            sound = [-1] * start + [1] * (head - start) + [-1] * (broken - head)
            sound += [0] * (len(false.tokens) - len(sound))
            # the words after the caption carry no news
            quiet = [-1] * (closing - 1)
            kept = [1] * (len(true.tokens) - start - len(quiet))
            made.append(replace(true, told=told, sound=[-1] * start + kept + quiet))
            made.append(replace(false, sound=sound[: len(sound) - len(quiet)] + quiet))
        return made

    def pack(self, pictures: Sequence[Image.Image], segments: Sequence[Segment]) -> Packed:
        """``segments`` holds those of the first picture first; the same number for each."""
        seen = self.processor.image_processor(images=list(pictures), return_tensors="pt")
        shared = _shared(segments)
        prefix = torch.cat([self.prefix, torch.tensor(segments[0].tokens[:shared], dtype=torch.long)])
        rest = [segment.after(shared) for segment in segments]
        return Packed(
            seen["pixel_values"],
            seen["image_grid_thw"],
            prefix,
            _padded([segment.tokens for segment in rest], self.tokenizer.pad_token_id),
            _padded([segment.targets for segment in rest], -100),
            _padded([segment.told for segment in rest], -100),
            _padded([segment.sound for segment in rest], -1),
        )


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def _common(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """How many tokens two sequences share at their beginnings, and then at their ends."""
    shorter = min(len(one), len(other))
    head = next((index for index in range(shorter) if one[index] != other[index]), shorter)
    tail = next((index for index in range(shorter - head) if one[-1 - index] != other[-1 - index]), shorter - head)
    return head, tail


def _shared(segments: Sequence[Segment]) -> int:
    """How many tokens all segments begin with, none of which has a target."""
    shared = 0
    for column, targets in zip(
        zip(*(segment.tokens for segment in segments), strict=False),
        zip(*(segment.targets for segment in segments), strict=False),
        strict=True,
    ):
        if len(set(column)) > 1 or any(target != -100 for target in targets):
            break
        shared += 1
    return shared


def _prefix_positions(prefix: Tensor, image_token: int) -> Tensor:
    """(3, P) multimodal rope positions of a prefix with one GRID x GRID picture."""
    before = int((prefix == image_token).nonzero()[0])
    area = GRID * GRID
    cell = torch.arange(area)
    picture = before + torch.stack([torch.zeros_like(cell), cell // GRID, cell % GRID])
    after = before + GRID + torch.arange(len(prefix) - before - area)
    return torch.cat([torch.arange(before).expand(3, -1), picture, after.expand(3, -1)], dim=1)


@contextmanager
def injected(mlp: Any, visual: Tensor, alpha: float) -> Iterator[None]:
    """Mix the visual tokens (B, N, d) into one feed-forward layer, scaled as the fine stage does (method, sec. 4)."""
    scale = 1.0 / visual.abs().mean((1, 2), keepdim=True)
    keys = visual * (mlp.up_proj.weight.abs().mean() * scale)
    values = visual * (mlp.down_proj.weight.abs().mean() * scale)

    def hook(_module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        times = len(x) // len(keys)
        k, v = keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0)
        delta = mlp.act_fn(x @ k.transpose(1, 2)) @ v
        delta = delta * (output.abs().mean((1, 2), keepdim=True) / delta.abs().mean((1, 2), keepdim=True))
        mixed: Tensor = (1 - alpha) * output + alpha * delta
        return mixed

    handle = mlp.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Seen:
    """What the vision tower makes of B pictures."""

    visual: Tensor  # (B, GRID * GRID, d), projected visual tokens
    deepstack: list[Tensor]  # each (B * GRID * GRID, d)


def see(model: Any, batch: Packed) -> Seen:
    """One pass of the vision tower over the pictures of a batch."""
    features = model.model.get_image_features(batch.pixels, batch.grid, return_dict=True)
    visual = torch.stack(features.pooler_output).to(model.get_decoder().embed_tokens.weight.dtype)
    return Seen(visual, [torch.cat(list(layer)) for layer in features.deepstack_features])


def states(model: Any, batch: Packed, seen: Seen, inject_at: int | None = None, alpha: float = 0.3) -> Tensor:
    """Last hidden states (B * n, S, d) of the segments.

    ``inject_at`` is the decoder layer whose feed-forward part gets the visual tokens mixed in; None: none.
    """
    if inject_at is None:
        return _decode(model, batch, seen)
    with injected(model.get_decoder().layers[inject_at].mlp, seen.visual, alpha):
        return _decode(model, batch, seen)


def logits(model: Any, batch: Packed, inject_at: int | None = None, alpha: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits (M, vocabulary) at the M positions that have a target, and those targets (M,)."""
    hidden = states(model, batch, see(model, batch), inject_at, alpha)
    wanted = batch.targets != -100
    return model.lm_head(hidden[wanted]), batch.targets[wanted]


def _decode(model: Any, batch: Packed, seen: Seen) -> Tensor:
    """Last hidden states (B * n, S, d) of the segments, after one shared pass over the prefixes."""
    decoder, image_token = model.get_decoder(), model.config.image_token_id
    pictures, rows = len(seen.visual), len(batch.tokens)
    prefix = batch.prefix.expand(pictures, -1)
    is_picture = prefix == image_token
    embedded = decoder.embed_tokens(prefix).masked_scatter(is_picture.unsqueeze(-1), seen.visual)
    positions = _prefix_positions(batch.prefix, image_token)
    cache = DynamicCache(config=decoder.config)
    decoder(
        inputs_embeds=embedded,
        position_ids=positions.unsqueeze(1).expand(3, pictures, -1),
        past_key_values=cache,
        use_cache=True,
        visual_pos_masks=is_picture,
        deepstack_visual_embeds=seen.deepstack,
    )
    cache.batch_repeat_interleave(rows // pictures)
    after = positions.max() + 1 + torch.arange(batch.tokens.shape[1])
    hidden: Tensor = decoder(
        inputs_embeds=decoder.embed_tokens(batch.tokens),
        position_ids=after.expand(3, rows, -1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden
