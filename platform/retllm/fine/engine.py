"""Forward passes: what a model says at the end of each question, read in one pass each (method sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from retllm.errors import TooLargeForDevice
from retllm.fine.batching import Pair, collate, pack
from retllm.fine.feedforward import FeedForward
from retllm.fine.hooks import NEVER, Reinjection, hooked
from retllm.fine.injection import Injection, LayerPlan
from retllm.fine.model import LoadedModel
from retllm.fine.prompts import Part
from retllm.fine.vision import PictureFeatures

log = structlog.get_logger(__name__)

Reader = Callable[[Tensor], Tensor]
"""From the last position's logits, (b, vocabulary) float32, to what is wanted of each sample, (b, n)."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One question.

    Attributes:
        candidate: the place among the candidates that errors name.
        message: the user's message; pictures in their places.
        said: tokens of the answer so far; the question is what comes next.
    """

    candidate: int
    message: Sequence[Part]
    said: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one forward pass gave.

    Attributes:
        values: what the reader made of the logits.
        injected_layer: the decoder layer, from 0, whose feed-forward output was mixed; None if none was.
        uncertainty: the early reading that armed it; None unless the ``entropy`` trigger did.
        tokens: length of the question, visual tokens included.
    """

    values: tuple[float, ...]
    injected_layer: int | None
    uncertainty: float | None
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """The outcome of one batch, still on the device: of each sample its place among the asks and its length, and
    (b, 2 + n) armed layer, uncertainty and the reader's values."""

    places: tuple[tuple[int, int], ...]
    values: Tensor


class Pending:
    """Answers that the device may still be computing."""

    def __init__(self, count: int, raw: Sequence[Raw]) -> None:
        self._count = count
        self._raw = raw

    def read(self) -> list[Answer]:
        """Wait for the device and fetch all answers at once, in the order of the asks."""
        if not self._raw:
            return []
        rows: list[list[float]] = torch.cat([one.values for one in self._raw]).cpu().tolist()
        places = [place for one in self._raw for place in one.places]
        answers: list[Answer | None] = [None] * self._count
        for (index, length), (armed, uncertainty, *values) in zip(places, rows, strict=True):
            answers[index] = Answer(
                values=tuple(values),
                injected_layer=None if armed == NEVER else int(armed),
                uncertainty=None if uncertainty != uncertainty else uncertainty,
                tokens=length,
            )
        return [answer for answer in answers if answer is not None]


class Engine:
    """Answers asks with one set of re-injection settings, within one call of the scorer."""

    def __init__(
        self,
        loaded: LoadedModel,
        features: PictureFeatures,
        feed_forwards: Mapping[int, FeedForward],
        injection: Injection,
        plan: LayerPlan,
        token_budget: int,
    ) -> None:
        self.loaded = loaded
        self._features = features
        self._feed_forwards = feed_forwards
        self._injection = injection
        self._plan = plan
        self._token_budget = token_budget
        self._device: torch.device = loaded.module.device

    def answer(self, asks: Sequence[Ask], read: Reader) -> Pending:
        """One forward pass for each ask, in batches; nothing in it waits for the device.

        Raises:
            InvalidInput: an ask that the model can't take (``detail["index"]`` is its candidate).
            TooLargeForDevice: one ask alone is too large for the device's memory.
        """
        pairs = [self._pair(place, ask) for place, ask in enumerate(asks)]
        raw = [one for group in pack(pairs, self._token_budget) for one in self._group(group, read)]
        return Pending(len(asks), raw)

    def _pair(self, place: int, ask: Ask) -> Pair:
        pair = self.loaded.preparer.pair(ask.candidate, ask.message)
        return pair.extended(place, ask.said)

    def _group(self, group: Sequence[Pair], read: Reader) -> Iterator[Raw]:
        try:
            yield self._forward(group, read)
        except torch.OutOfMemoryError as error:
            if len(group) == 1:
                raise TooLargeForDevice(
                    f"One pair of {group[0].length} tokens does not fit the memory of {self._device}. Use smaller "
                    "pictures, a smaller model or a larger device."
                ) from error
            log.warning("batch_halved", pairs=len(group), tokens=group[0].length * len(group))
        else:
            return
        # outside the handler, whose error would keep the failed pass's memory alive
        half = len(group) // 2
        yield from self._group(group[:half], read)
        yield from self._group(group[half:], read)

    def _forward(self, group: Sequence[Pair], read: Reader) -> Raw:
        batch = collate(group, pad_token=self.loaded.preparer.pad_token, image_token=self.loaded.image_token)
        layout = batch.layout.to(self._device)
        shows = bool(batch.pairs[0].pictures)
        reinjection = Reinjection(self._injection, self._plan, layout) if shows and self._plan.injectable else None
        inputs = self._features.inputs(batch)
        with hooked(self.loaded.decoder, layout, reinjection, self._plan, self._feed_forwards):
            logits: Tensor = self.loaded.module(**inputs).logits
        values = read(logits[:, -1])
        if reinjection is None:
            armed = values.new_full((len(values), 1), NEVER)
            uncertainty = values.new_full((len(values), 1), torch.nan)
        else:
            armed, uncertainty = reinjection.armed[:, None].float(), reinjection.uncertainty[:, None]
        places = tuple((pair.index, pair.length) for pair in batch.pairs)
        return Raw(places, torch.cat([armed, uncertainty, values], dim=1))
