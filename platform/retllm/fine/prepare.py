"""From a message to model inputs: chat template, tokens, pixels, with each picture prepared once per call."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from retllm.errors import InvalidInput, ModelUnsuited
from retllm.fine.batching import TOKEN_KEYS, Pair
from retllm.fine.prompts import Part

_THREADS = 4

#: what image processors and Pillow raise for a picture that they can't take
_REFUSALS = (ValueError, TypeError, RuntimeError, OSError, ZeroDivisionError, SyntaxError)

#: what some processors (PaliGemma's) give with the inputs, and would make the model compute a loss
_FOR_TRAINING = ("labels",)


class Preparer:
    """Turns messages into :class:`Pair`, with a transformers processor.

    Args:
        model: its name, for messages.
        processor: of an image-text-to-text model, with a chat template.
        limit: most tokens that the model takes; None if it does not say.

    Raises:
        ModelUnsuited: the processor has no chat template, tokenizer or image processor.
    """

    def __init__(self, model: str, processor: Any, limit: int | None) -> None:
        self.model = model
        tokenizer = getattr(processor, "tokenizer", None)
        images = getattr(processor, "image_processor", None)
        if tokenizer is None or images is None:
            raise ModelUnsuited(f"The processor of {model} lacks a tokenizer or an image processor.")
        if not getattr(processor, "chat_template", None):
            raise ModelUnsuited(
                f"{model} has no chat template, so it does not answer questions. Use an instruction-tuned model."
            )
        self._processor = processor
        self._tokenizer = tokenizer
        self._limit = limit
        self._memo = _PictureMemo(images)
        processor.image_processor = self._memo
        self._rgb: dict[int, Image.Image] = {}
        self._control = _control_tokens(processor, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad_token: int = pad if isinstance(pad, int) else 0

    @contextmanager
    def pictures_once(self) -> Iterator[None]:
        """Within this, a picture that comes again is not prepared again."""
        self._memo.open()
        try:
            yield
        finally:
            self._memo.close()
            self._rgb.clear()

    def ahead(self, images: Iterable[Image.Image]) -> None:
        """Prepare pictures of this call side by side, before their pairs ask for them.

        Only saves time: what can't be done ahead, a picture that the image processor refuses included, is left to
        :meth:`pair`.
        """
        ready = []
        for image in images:
            with suppress(*_REFUSALS):
                ready.append(self._as_rgb(image))
        self._memo.ahead(ready)

    def keep_only(self, image: Image.Image | None) -> set[int]:
        """Forget every picture of this call but one; returns the numbers that are still known."""
        kept = set() if image is None else {id(self._as_rgb(image))}
        self._memo.keep_only(kept)
        self._rgb = {key: value for key, value in self._rgb.items() if id(value) in kept}
        return kept

    def pair(self, index: int, message: Sequence[Part]) -> Pair:
        """The inputs of one message.

        Raises:
            InvalidInput: a picture that the model's image processor refuses (a strip of pixels, say), or more tokens
                than the model takes.
        """
        text = self.render(message)
        try:
            images = [self._as_rgb(part) for part in message if isinstance(part, Image.Image)]
            features = self._processor(
                text=[text],
                images=[images] if images else None,
                return_tensors="pt",
                **self._special_tokens(text),
            )
        except _REFUSALS as error:
            raise InvalidInput(
                f"The model can't take this pair: {_first_line(error)}", field="candidates", index=index
            ) from error
        tokens = {key: features[key] for key in TOKEN_KEYS if key in features}
        other = {key: value for key, value in features.items() if key not in (*TOKEN_KEYS, *_FOR_TRAINING)}
        vision = {key: torch.as_tensor(value) for key, value in other.items()}
        pair = Pair(index, tokens, vision, tuple(id(image) for image in images))
        if self._limit is not None and pair.length > self._limit:
            raise InvalidInput(
                f"The pair is {pair.length} tokens long; the model takes {self._limit}. Shorten the text.",
                field="candidates",
                index=index,
            )
        return pair

    def _as_rgb(self, image: Image.Image) -> Image.Image:
        """The picture in red, green and blue; where it is transparent, white shows through."""
        if image.mode == "RGB":
            return image
        if id(image) not in self._rgb:
            if image.has_transparency_data:
                layer = image.convert("RGBA")
                image_rgb = Image.new("RGB", image.size, "white")
                image_rgb.paste(layer, mask=layer.getchannel("A"))
            else:
                image_rgb = image.convert("RGB")
            self._rgb[id(image)] = image_rgb
        return self._rgb[id(image)]

    def picture(self, image_id: int) -> dict[str, Tensor] | None:
        """What the image processor made of one picture of this call, by itself; None where it was not asked alone."""
        return self._memo.single(image_id)

    def render(self, message: Sequence[Part]) -> str:
        """The message as the model's chat template writes it, up to where the answer begins."""
        content = [
            {"type": "text", "text": self._harmless(part)} if isinstance(part, str) else {"type": "image"}
            for part in message
        ]
        # models that think aloud would begin with something else than the answer
        quiet = {"enable_thinking": False} if "enable_thinking" in str(self._processor.chat_template) else {}
        rendered = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False, **quiet
        )
        return str(rendered)

    def encode(self, text: str, *, continued: bool = False) -> list[int]:
        """Token ids of ``text``; with ``continued``, none are added at its beginning."""
        special = {"add_special_tokens": False} if continued else self._special_tokens(text)
        return list(self._tokenizer(text, **special)["input_ids"])

    def spells(self, token: int, spelling: str) -> bool:
        """Whether a token stands for ``spelling``, and not for "unknown"."""
        return (
            token != self._tokenizer.unk_token_id and str(self._tokenizer.decode([token])).strip() == spelling.strip()
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens, without those that mean more than their letters."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def control_ids(self) -> set[int]:
        """The tokens that mean more than their letters: ends of turns, places of pictures and the like."""
        added = self._tokenizer.added_tokens_decoder.items()
        named = {token for token, name in added if self._control.fullmatch(str(name))}
        return named | set(self._tokenizer.all_special_ids)

    def _special_tokens(self, text: str) -> dict[str, bool]:
        """Some chat templates write the first token themselves; it must not come twice."""
        bos = self._tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _harmless(self, text: str) -> str:
        """Break up the model's control tokens in a text, so that no caption can end the turn or ask for a picture.

        Works on the finished question, since its ``<...>`` around the caption ``image`` would make LLaVA's
        ``<image>``.
        """
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _control_tokens(processor: Any, tokenizer: Any) -> re.Pattern[str]:
    """What matches every token that means more than its letters."""
    names = {str(added) for added in tokenizer.added_tokens_decoder.values() if added.special}
    names |= {str(getattr(processor, kind, None) or "") for kind in ("image_token", "video_token", "audio_token")}
    names |= set(tokenizer.all_special_tokens)
    # longest first, so that a token is found before one that it contains
    longest_first = sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _PictureMemo:
    """Stands in for a processor's image processor and remembers its answers, by picture, within one call.

    Families whose answer for several pictures is the answers for each put together (those with ``image_grid_thw``)
    are asked one picture at a time, so that a query's picture shown beside many candidates is prepared once, and
    several pictures side by side.
    """

    def __init__(self, image_processor: Any) -> None:
        self._wrapped = image_processor
        self._answers: dict[tuple[int, ...], Any] | None = None
        # how the processor asks for one picture, learned from the first; it never changes
        self._options: dict[str, Any] | None = None

    def open(self) -> None:
        self._answers = {}

    def close(self) -> None:
        self._answers = None

    def ahead(self, images: Sequence[Image.Image]) -> None:
        if self._answers is None or self._options is None:
            return
        options = self._options
        new = {id(image): image for image in images if (id(image),) not in self._answers}

        def ask(image: Image.Image) -> None:
            # a refusal is told when the pair asks, which knows its place among the candidates
            with suppress(*_REFUSALS):
                self._ask((id(image),), [[image]], options)

        if len(new) > 1:
            with ThreadPoolExecutor(max_workers=min(_THREADS, os.cpu_count() or 1)) as pool:
                list(pool.map(ask, new.values()))

    def keep_only(self, image_ids: set[int]) -> None:
        answers = self._answers or {}
        self._answers = {key: answer for key, answer in answers.items() if set(key) <= image_ids}

    def single(self, image_id: int) -> dict[str, Tensor] | None:
        answer = (self._answers or {}).get((image_id,))
        return None if answer is None else dict(answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        flat = list(_flatten(images))
        if self._answers is None:
            return self._wrapped(images, **kwargs)
        if len(flat) == 1:
            return self._ask((id(flat[0]),), images, kwargs)
        first = self._ask((id(flat[0]),), [[flat[0]]], kwargs)
        if "image_grid_thw" not in first:
            return self._ask(tuple(map(id, flat)), images, kwargs)
        answers = [first, *(self._ask((id(image),), [[image]], kwargs) for image in flat[1:])]
        return type(first)({key: torch.cat([torch.as_tensor(one[key]) for one in answers]) for key in first})

    def _ask(self, key: tuple[int, ...], images: Any, kwargs: dict[str, Any]) -> Any:
        assert self._answers is not None
        if key not in self._answers:
            self._answers[key] = self._wrapped(images, **kwargs)
        answer = self._answers[key]
        if len(key) == 1 and "image_grid_thw" in answer:
            self._options = kwargs
        # processors take keys out of what they are given
        return type(answer)(dict(answer))


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flatten(image)
    else:
        yield images
