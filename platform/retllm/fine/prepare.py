"""Make model inputs from a message: chat template, tokens, pixels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from PIL import Image

from retllm.errors import InvalidInput, ModelUnsuited
from retllm.fine.batching import TOKEN_KEYS, Pair
from retllm.fine.content import Picture
from retllm.fine.padding import Size
from retllm.fine.picture_budget import PictureBudget
from retllm.fine.pixels import REFUSALS, PixelMemo
from retllm.fine.prompts import Part


@dataclass(frozen=True, slots=True)
class Opening:
    """The beginning of a message, up to the text after its last picture.

    Attributes:
        key: identifies the beginning: its text, and the keys of its pictures.
        tokens: of the whole message, each picture as its placeholder (one token or a few) in the text.
    """

    key: tuple[str, ...]
    tokens: tuple[int, ...]


#: maximum share of a picture in the model's context, in percent: two pictures and a question have to fit
_PICTURE_SHARE = 37

#: upper bound of the tokens of a picture for each visual token of the largest: some mark rows, columns or tiles
_TOKENS_OF_VISUAL = 2

#: pictures, or pairs of pictures, whose number of tokens is kept
_KEPT_EXPANSIONS = 50_000

#: inputs of some processors (PaliGemma's) that would make the model compute a loss
_FOR_TRAINING = ("labels",)


class Preparer:
    """Converts messages to :class:`Pair` with a transformers processor.

    Args:
        model: its name, for messages.
        processor: of an image-text-to-text model, with a chat template.
        limit: maximum number of tokens of the model; None if unknown.
        system: the system turn of every question; None for none.
        template_arguments: of the chat template; each is given if the template mentions it.

    Attributes:
        limit: the maximum number of tokens.
        picture_tokens: maximum number of tokens of a picture; None before :meth:`limit_pictures`.
        pixels: the image processor.

    Raises:
        ModelUnsuited: the processor has no chat template, tokenizer or image processor, or the chat template does not
            show the system turn.
    """

    def __init__(
        self,
        model: str,
        processor: Any,
        limit: int | None,
        system: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
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
        self._images = images
        self.limit = limit
        self.picture_tokens: int | None = None
        self._largest: int | None = None
        self._expansions: LRUCache[tuple[str, ...], int] = LRUCache(maxsize=_KEPT_EXPANSIONS)
        self.pixels = PixelMemo(images)
        processor.image_processor = self.pixels
        self._control = _control_tokens(processor, tokenizer)
        # the unknown token is not a control token
        self._control_ids = self.control_ids() - {tokenizer.unk_token_id}
        pad = tokenizer.pad_token_id
        self.pad_token: int = pad if isinstance(pad, int) else 0
        template = str(processor.chat_template)
        self._arguments = {name: value for name, value in (template_arguments or {}).items() if name in template}
        self._system = None if system is None else self._sanitize(system)
        self._check_system()

    def limit_pictures(self, tokens: int, config: Any, image_token: int, *, at_least: bool = False) -> None:
        """Limit every picture to ``tokens`` tokens.

        If two pictures of the maximum would leave no room for a question in the model's context, the maximum is lower:
        :attr:`picture_tokens` has it. Pictures of shapes that the model does not take are padded.

        Args:
            tokens: the maximum.
            config: of the model.
            image_token: the placeholder token id of a visual token.
            at_least: if the model needs more for a picture of any size, the maximum is what it needs.

        Raises:
            ModelUnsuited: the model needs more for a picture of any size.
        """

        def measure(size: Size) -> int:
            text = self.render([Picture(Image.new("RGB", (1, 1)))])
            images = [[Image.new("RGB", size)]]
            features = self._processor(text=[text], images=images, return_tensors="pt", **self._special_tokens(text))
            return int((features["input_ids"] == image_token).sum())

        def limited(most: int, at_least: bool = False) -> PictureBudget:
            return PictureBudget(self.model, self._processor, self._images, config, most, measure, at_least)

        budget = limited(tokens, at_least)
        if self.limit is not None and budget.most() > (share := self.limit * _PICTURE_SHARE // 100):
            # a model that needs more takes pairs with one picture
            with suppress(ModelUnsuited):
                budget = limited(share)
        self._budget, self.picture_tokens, self._largest = budget, budget.tokens, budget.most()
        self.pixels.fit, self.pixels.canvas = budget.fit, budget.canvas

    def pad_smallest(self) -> None:
        """Pad every picture that has the fewest tokens that the processor makes, so that it has more."""
        self._budget.refuse_smallest()

    @contextmanager
    def pictures_once(self) -> Iterator[None]:
        """Prepare each picture at most once within this context."""
        self.pixels.open()
        try:
            yield
        finally:
            self.pixels.close()

    def opening(self, index: int, message: Sequence[Part]) -> Opening | None:
        """Return the beginning of a message; None if it has no picture, or no text after the last one.

        Raises:
            InvalidInput: a picture can't be opened, or control tokens can't be removed from a text.
        """
        pictures = [part for part in message if isinstance(part, Picture)]
        if not pictures or not isinstance(message[-1], str):
            return None
        text = self._rendered(index, message)
        at = text.rfind(self._sanitize(message[-1]))
        if at < 0:
            return None
        return Opening((text[:at], *_keys(index, pictures)), tuple(self.encode(text)))

    def pair(self, index: int, message: Sequence[Part]) -> Pair:
        """Return the inputs of one message.

        Raises:
            InvalidInput: the model's image processor rejects a picture (for example, a strip of pixels), there are
                more tokens than the model takes, or control tokens can't be removed from a text.
        """
        pair = self._prepared(index, message)
        self.check_length(index, pair.length)
        return pair

    def _prepared(self, index: int, message: Sequence[Part]) -> Pair:
        text = self._rendered(index, message)
        pictures = [part for part in message if isinstance(part, Picture)]
        try:
            images = [self.pixels.shown(picture) for picture in pictures]
            features = self._processor(
                text=[text],
                images=[images] if images else None,
                return_tensors="pt",
                **self._special_tokens(text),
            )
        except REFUSALS as error:
            if not pictures and "image" in str(error):
                message = "The model takes no pair without a picture."
                raise InvalidInput(message, field="candidates", index=index) from error
            raise _refused(index, error) from error
        finally:
            self.pixels.done()
        tokens = {key: features[key] for key in TOKEN_KEYS if key in features}
        other = {key: value for key, value in features.items() if key not in (*TOKEN_KEYS, *_FOR_TRAINING)}
        vision = {key: torch.as_tensor(value) for key, value in other.items()}
        return Pair(index, tokens, vision, tuple(picture.key for picture in pictures))

    def length(self, index: int, message: Sequence[Part]) -> int:
        """Return the number of tokens of a message; a picture seen before is not opened again.

        Raises:
            InvalidInput: a picture can't be prepared, or control tokens can't be removed from a text.
        """
        written = len(self.encode(self._rendered(index, message)))
        pictures = [part for part in message if isinstance(part, Picture)]
        if not pictures:
            return written
        keys = _keys(index, pictures)
        if keys not in self._expansions:
            self._expansions[keys] = self._prepared(index, message).length - written
        return written + self._expansions[keys]

    def expansion(self, index: int, message: Sequence[Part]) -> int | None:
        """Return how many tokens the pictures of a message add to its text, or at most add; None if that is unknown.

        Raises:
            InvalidInput: the key of a picture must be computed from its pixels, and it can't be opened.
        """
        pictures = [part for part in message if isinstance(part, Picture)]
        known = self._expansions.get(_keys(index, pictures)) if pictures else 0
        if known is None and self._largest is not None:
            return _TOKENS_OF_VISUAL * len(pictures) * self._largest
        return known

    def count(self, text: str) -> int:
        """Return the number of tokens of a text within a message.

        Raises:
            InvalidInput: control tokens can't be removed from it.
        """
        return len(self.encode(self._sanitize(text), continued=True))

    def check_length(self, index: int, length: int) -> None:
        """Check that ``length`` tokens fit into the model.

        Raises:
            InvalidInput: ``length`` is above the model's maximum.
        """
        if self.limit is not None and length > self.limit:
            raise InvalidInput(
                f"The pair is {length} tokens long; the model takes {self.limit}. Shorten the text.",
                field="candidates",
                index=index,
            )

    def _rendered(self, index: int, message: Sequence[Part]) -> str:
        try:
            return self.render(message)
        except InvalidInput as error:
            raise _refused(index, error) from error

    def render(self, message: Sequence[Part]) -> str:
        """Render the message with the model's chat template, up to the start of the answer.

        Raises:
            InvalidInput: control tokens can't be removed from a text.
            ModelUnsuited: the chat template fails, or tries an operation that its sandbox forbids.
        """
        content = [
            {"type": "text", "text": self._sanitize(part)} if isinstance(part, str) else {"type": "image"}
            for part in message
        ]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self._system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self._system}]})
        try:
            rendered = self._processor.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False, **self._arguments
            )
        except Exception as error:
            raise ModelUnsuited(f"The chat template of {self.model} can't be used: {_first_line(error)}") from error
        return str(rendered)

    def _check_system(self) -> None:
        """Check that the chat template shows the text of the system turn, and not the parts that it is made of."""
        shown = "" if self._system is None else self.render(["?"])
        if self._system is not None and (self._system not in shown or "{'type'" in shown):
            raise ModelUnsuited(
                f"The chat template of {self.model} does not show the system turn of its profile: remove system from "
                "the profile (RETLLM_PROFILE)."
            )

    def encode(self, text: str, *, continued: bool = False) -> list[int]:
        """Return the token ids of ``text``; with ``continued``, without special tokens at its beginning."""
        special = {"add_special_tokens": False} if continued else self._special_tokens(text)
        return list(self._tokenizer(text, **special)["input_ids"])

    def spells(self, token: int, spelling: str) -> bool:
        """Return whether a token decodes to ``spelling`` and is not the unknown token."""
        return (
            token != self._tokenizer.unk_token_id and str(self._tokenizer.decode([token])).strip() == spelling.strip()
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode the tokens of an answer, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def control_ids(self) -> set[int]:
        """Return the ids of all control tokens, such as end of turn and image token."""
        added = self._tokenizer.added_tokens_decoder.items()
        named = {token for token, name in added if self._control.fullmatch(str(name))}
        return named | set(self._tokenizer.all_special_ids)

    def _special_tokens(self, text: str) -> dict[str, bool]:
        """Return the option that avoids a second first token, for chat templates that write it themselves."""
        bos = self._tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _sanitize(self, text: str) -> str:
        """Break up the model's control tokens in a text, so that no caption can end the turn or request a picture.

        Works on the complete question, since ``<...>`` around the caption ``image`` would make LLaVA's ``<image>``. The
        tokenizer checks the result. If it still finds a control token (some tokenizers normalise characters, such as
        full-width ones), the text is normalised first, and finally its brackets are removed.
        """
        for plainer in (str, _in_plain_letters, _without_brackets):
            broken = self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", plainer(text))
            if self._control_ids.isdisjoint(self.encode(broken, continued=True)):
                return broken
        raise InvalidInput("The text contains control tokens of the model. Remove them.", field="candidates")


# the usual form of tokens that were added to a tokenizer's vocabulary
_MARKER = re.compile(r"<[^\s]+>|\[[^\s]+\]")
_BRACKETS = str.maketrans(dict.fromkeys("<>[]{}|", " "))


def _in_plain_letters(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _without_brackets(text: str) -> str:
    return _in_plain_letters(text).translate(_BRACKETS)


def _control_tokens(processor: Any, tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern that matches every control token.

    Besides the tokens that are marked as special, these are the ones of the same form (``<think>``, ``<tool_call>``),
    since tokenizers mark different ones.
    """
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    names = {name for name, special in added.items() if special or _MARKER.fullmatch(name)}
    # tokens for pictures, their beginnings and rows: each family has its own, which its processor expands in the text
    own = {name: value for name, value in vars(processor).items() if name.endswith("_token")}
    names |= {str(value) for value in own.values() if value}
    names |= set(tokenizer.all_special_tokens)
    # longest first, so that a token matches before one that it contains
    longest_first = sorted((name for name in names if len(name.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _keys(index: int, pictures: Sequence[Picture]) -> tuple[str, ...]:
    try:
        return tuple(picture.key for picture in pictures)
    except REFUSALS as error:
        raise _refused(index, error) from error


def _refused(index: int, error: Exception) -> InvalidInput:
    return InvalidInput(f"The model can't take this pair: {_first_line(error)}", field="candidates", index=index)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
