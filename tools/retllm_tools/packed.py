"""One forward pass over pictures with several questions each, which share the computation of the picture prefix.

Used in training only. A test checks that the result equals that of the plain model for each prompt alone.
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
    """The part of a prompt after the picture, by position.

    ``targets`` are the tokens of the answer (-100: none). The other two are for auxiliary losses: ``caption`` holds the
    next token inside a true caption (-100 elsewhere), ``truth`` whether the caption is true up to this position (1 or
    0; -1 if unknown).
    """

    tokens: list[int]
    targets: list[int]
    caption: list[int]
    truth: list[int]

    def after(self, start: int) -> Segment:
        """Return the segment without its first ``start`` positions."""
        return Segment(self.tokens[start:], self.targets[start:], self.caption[start:], self.truth[start:])


@dataclass(frozen=True)
class Packed:
    """B pictures with the same number n of segments each."""

    pixels: Tensor  # (B * patches, channels * 2 * patch * patch)
    grid: Tensor  # (B, 3)
    prefix: Tensor  # (P,), the picture tokens and the text that all prompts of the batch share
    tokens: Tensor  # (B * n, S), right-padded
    targets: Tensor  # (B * n, S), -100 without a target
    caption: Tensor  # (B * n, S), -100 outside of true captions
    truth: Tensor  # (B * n, S), -1 if unknown


class Packer:
    """Converts pictures and texts to ``Packed`` batches with the processor of the saved model."""

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
        """Return questions and answers as segments; with ``whole`` the end of the answer is a target too."""
        end = "<|im_end|>" if whole else ""
        question_tokens = self._encode([f"{self._before}{question}{self._after}" for question in questions])
        answer_tokens = self._encode([answer + end for answer in answers])
        segments = []
        for question, answer in zip(question_tokens, answer_tokens, strict=True):
            size = len(question) + len(answer) - 1
            targets = [-100] * (len(question) - 1) + answer
            segments.append(Segment(question + answer[:-1], targets, [-100] * size, [-1] * size))
        return segments

    def judged(self, questions: Sequence[str], answers: Sequence[str], opening: str, ending: str) -> list[Segment]:
        """Return segments with ``caption`` and ``truth`` for pairs of a true caption and a false one made from it.

        Args:
            questions: true, false, true, false, ...
            answers: the answers in the same order.
            opening, ending: text of every question before and after its caption.
        """
        plain = self.segments(questions, answers, whole=False)
        start = len(self._encode([self._before + opening])[0])
        closing = len(self._encode([ending + self._after])[0])
        segments: list[Segment] = []
        for true, false in zip(plain[::2], plain[1::2], strict=True):
            head, tail = _common(true.tokens, false.tokens)
            # the false caption is true before the difference, and false from the end of the difference on
            broken = max(len(false.tokens) - tail - 1, head)
            caption = [-100] * start + true.tokens[start + 1 : len(true.tokens) - closing]
            caption += [-100] * (len(true.tokens) - len(caption))
            truth = [-1] * start + [1] * (head - start) + [-1] * (broken - head)
            truth += [0] * (len(false.tokens) - len(truth))
            # no target after the caption
            unknown = [-1] * (closing - 1)
            known = [1] * (len(true.tokens) - start - len(unknown))
            segments.append(replace(true, caption=caption, truth=[-1] * start + known + unknown))
            segments.append(replace(false, truth=truth[: len(truth) - len(unknown)] + unknown))
        return segments

    def pack(self, pictures: Sequence[Image.Image], segments: Sequence[Segment]) -> Packed:
        """Pack pictures with their segments: those of the first picture first, the same number for each."""
        processed = self.processor.image_processor(images=list(pictures), return_tensors="pt")
        shared = _shared(segments)
        prefix = torch.cat([self.prefix, torch.tensor(segments[0].tokens[:shared], dtype=torch.long)])
        rest = [segment.after(shared) for segment in segments]
        return Packed(
            processed["pixel_values"],
            processed["image_grid_thw"],
            prefix,
            _padded([segment.tokens for segment in rest], self.tokenizer.pad_token_id),
            _padded([segment.targets for segment in rest], -100),
            _padded([segment.caption for segment in rest], -100),
            _padded([segment.truth for segment in rest], -1),
        )


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def _common(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """Return the lengths of the common prefix of two sequences and of the common suffix of the rest."""
    shorter = min(len(first), len(second))
    head = next((index for index in range(shorter) if first[index] != second[index]), shorter)
    tail = next((index for index in range(shorter - head) if first[-1 - index] != second[-1 - index]), shorter - head)
    return head, tail


def _shared(segments: Sequence[Segment]) -> int:
    """Return the length of the common prefix of all segments that has no target."""
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
    """Return the multimodal rope positions (3, P) of a prefix with one GRID x GRID picture."""
    before = int((prefix == image_token).nonzero()[0])
    area = GRID * GRID
    cell = torch.arange(area)
    picture = before + torch.stack([torch.zeros_like(cell), cell // GRID, cell % GRID])
    after = before + GRID + torch.arange(len(prefix) - before - area)
    return torch.cat([torch.arange(before).expand(3, -1), picture, after.expand(3, -1)], dim=1)


@contextmanager
def injected(mlp: Any, visual: Tensor, alpha: float) -> Iterator[None]:
    """Mix the visual tokens (B, N, d) into one feed-forward layer, scaled as in the fine stage (method, section 4)."""
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
class VisualFeatures:
    """The output of the vision tower for B pictures."""

    visual: Tensor  # (B, GRID * GRID, d), projected visual tokens
    deepstack: list[Tensor]  # each (B * GRID * GRID, d)


def encode_pictures(model: Any, batch: Packed) -> VisualFeatures:
    """Run the vision tower on the pictures of a batch."""
    features = model.model.get_image_features(batch.pixels, batch.grid, return_dict=True)
    visual = torch.stack(features.pooler_output).to(model.get_decoder().embed_tokens.weight.dtype)
    return VisualFeatures(visual, [torch.cat(list(layer)) for layer in features.deepstack_features])


def states(model: Any, batch: Packed, seen: VisualFeatures, inject_at: int | None = None, alpha: float = 0.3) -> Tensor:
    """Return the last hidden states (B * n, S, d) of the segments.

    ``inject_at`` is the decoder layer with re-injection into its feed-forward part; None: no layer.
    """
    if inject_at is None:
        return _decode(model, batch, seen)
    with injected(model.get_decoder().layers[inject_at].mlp, seen.visual, alpha):
        return _decode(model, batch, seen)


def logits(model: Any, batch: Packed, inject_at: int | None = None, alpha: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return logits (M, vocabulary) at the M positions with a target, and these targets (M,)."""
    hidden = states(model, batch, encode_pictures(model, batch), inject_at, alpha)
    has_target = batch.targets != -100
    return model.lm_head(hidden[has_target]), batch.targets[has_target]


def _decode(model: Any, batch: Packed, seen: VisualFeatures) -> Tensor:
    """Return the last hidden states (B * n, S, d) of the segments, after one shared pass over the prefixes."""
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
