"""Forward passes: one pass for each question, read at its last position (method sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
import torch
from torch import Tensor

from retllm.errors import TooLargeForDevice
from retllm.fine.batching import Batch, Layout, Packed, Pair, Sample, collate, kind_of, pack
from retllm.fine.content import Picture
from retllm.fine.feedforward import FeedForward
from retllm.fine.hooks import NEVER, Reinjection, hooked
from retllm.fine.injection import Injection, LayerPlan
from retllm.fine.model import LoadedModel
from retllm.fine.prefix import (
    Key,
    Prefix,
    PrefixCache,
    Split,
    Tail,
    capture_decoder_inputs,
    collate_tails,
    empty_cache,
    harvest,
    split,
)
from retllm.fine.prepare import Opening
from retllm.fine.prompts import Part
from retllm.fine.tracing import Recorder
from retllm.fine.vision import PictureFeatures
from retllm.metrics import BATCH, PREFIXES

log = structlog.get_logger(__name__)

Out = TypeVar("Out")

Reader = Callable[[Tensor], Tensor]
"""Maps the logits of the last position, (b, vocabulary) float32, to the values to return for each sample, (b, n)."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One question.

    Attributes:
        candidate: position of the candidate, for error messages.
        message: the user's message, texts and pictures in order.
        answer_tokens: the answer so far; the model is asked for the next token.
        recorded: whether this is the candidate's question to record in a trace.
    """

    candidate: int
    message: Sequence[Part]
    answer_tokens: tuple[int, ...] = ()
    recorded: bool = True


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """The result of one forward pass.

    Attributes:
        values: the reader's values for this sample.
        injected_layer: the decoder layer, from 0, whose feed-forward output was mixed; None if none was.
        uncertainty: the early reading that armed it; None unless the ``entropy`` trigger did.
        tokens: length of the question, visual tokens included.
    """

    values: tuple[float, ...]
    injected_layer: int | None
    uncertainty: float | None
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutput:
    """The result of one batch, still on the device.

    Attributes:
        places: of each sample, its position among the prompts and its length in tokens.
        values: (b, 2 + n) armed layer, uncertainty and the reader's values.
    """

    places: tuple[tuple[int, int], ...]
    values: Tensor


class LazyAnswers:
    """Answers that the device may still be computing."""

    def __init__(self, count: int, raw: Sequence[BatchOutput]) -> None:
        self._count = count
        self._raw = raw

    def read(self) -> list[PromptAnswer]:
        """Wait for the device and fetch all answers at once, in the order of the prompts."""
        if not self._raw:
            return []
        rows: list[list[float]] = torch.cat([output.values for output in self._raw]).cpu().tolist()
        places = [place for output in self._raw for place in output.places]
        answers: list[PromptAnswer | None] = [None] * self._count
        for (index, length), (armed, uncertainty, *values) in zip(places, rows, strict=True):
            answers[index] = PromptAnswer(
                values=tuple(values),
                injected_layer=None if armed == NEVER else int(armed),
                uncertainty=None if uncertainty != uncertainty else uncertainty,
                tokens=length,
            )
        return [answer for answer in answers if answer is not None]


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """A pair that is computed from its first token on; with a ``split``, its prefix is cached under ``key``.

    ``recorded`` is the candidate for which the pass is recorded, None if it is not.
    """

    pair: Pair
    key: Key = ()
    split: Split | None = None
    recorded: int | None = None

    @property
    def index(self) -> int:
        return self.pair.index

    @property
    def length(self) -> int:
        return self.pair.length


class Engine:
    """Answers prompts with one set of re-injection settings, within one call of the scorer.

    Args:
        loaded: the model.
        features: its picture features.
        feed_forwards: the networks of all layers that the plan may inject into.
        injection, plan: the settings, and the layers they select in this model.
        token_budget: maximum number of tokens in one forward pass, padding included.
        prefixes: the cached image prefixes; None if this model's questions must not be split.
        recorder: records the passes for a trace; then no question is split.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        features: PictureFeatures,
        feed_forwards: Mapping[int, FeedForward],
        injection: Injection,
        plan: LayerPlan,
        token_budget: int,
        prefixes: PrefixCache | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.loaded = loaded
        self._features = features
        self._feed_forwards = feed_forwards
        self._injection = injection
        self._plan = plan
        self._token_budget = token_budget
        # with injection into all positions the prefix depends on the question
        exact = not plan.injectable or injection.scope == "suffix"
        # also one that this engine must not use takes memory
        self._cache = prefixes
        self._prefixes = prefixes if exact and recorder is None else None
        self._recorder = recorder
        self._device: torch.device = loaded.module.device

    def answer(self, prompts: Sequence[Prompt], read: Reader) -> LazyAnswers:
        """Run one forward pass for each prompt, in batches, without waiting for the device.

        The picture's part of a question is computed once for all prompts that begin with it, if that is exact.

        Raises:
            InvalidInput: the model can't take a prompt (``detail["index"]`` is its candidate).
            TooLargeForDevice: a single prompt is too large for the device's memory.
        """
        openings = [self._opening(prompt) for prompt in prompts]
        known = self._known(prompts, openings)
        wholes: list[_Question] = []
        tails: list[Tail] = []
        for place, (prompt, opening) in enumerate(zip(prompts, openings, strict=True)):
            prefix = known.get(opening.key) if opening else None
            rest = prefix.tail(opening) if prefix and opening else None
            if prefix is None or rest is None:
                wholes.append(self._question(place, prompt, opening))
            else:
                tails.append(Tail(place, prefix, rest + prompt.answer_tokens))
                self.loaded.preparer.check_length(prompt.candidate, tails[-1].length)
        raw = [
            *self._passes(wholes, self._kind_of, lambda group: self._whole(group, read)),
            *self._passes(tails, self._kind_of_tail, lambda group: self._tails(group, read)),
        ]
        return LazyAnswers(len(prompts), raw)

    def _opening(self, prompt: Prompt) -> Opening | None:
        return None if self._prefixes is None else self.loaded.preparer.opening(prompt.candidate, prompt.message)

    def _known(self, prompts: Sequence[Prompt], openings: Sequence[Opening | None]) -> dict[Key, Prefix]:
        """Return the cached prefixes, and those that several prompts share, which are computed first."""
        known: dict[Key, Prefix] = {}
        missing: dict[Key, list[int]] = {}
        for place, opening in enumerate(openings):
            found = self._prefixes.get(opening.key) if self._prefixes and opening else None
            if found is not None and opening:
                known[opening.key] = found
            else:
                missing.setdefault(opening.key if opening else (str(place),), []).append(place)
        self._ahead(prompts[places[0]] for places in missing.values())
        shared = [places[0] for places in missing.values() if len(places) > 1]
        questions = [
            self._question(place, replace(prompts[place], answer_tokens=()), openings[place]) for place in shared
        ]
        heads = [
            replace(question, pair=question.pair.cut(question.split.length)) for question in questions if question.split
        ]
        for made in self._passes(heads, self._kind_of, self._make):
            known.update(made)
        return known

    def _ahead(self, prompts: Iterable[Prompt]) -> None:
        parts = (part for prompt in prompts for part in prompt.message)
        self.loaded.preparer.pixels.ahead([part for part in parts if isinstance(part, Picture)])

    def _question(self, place: int, prompt: Prompt, opening: Opening | None) -> _Question:
        pair = self.loaded.preparer.pair(prompt.candidate, prompt.message)
        whole = pair.extended(place, prompt.answer_tokens)
        if opening is None:
            return _Question(whole, recorded=prompt.candidate if prompt.recorded else None)
        return _Question(whole, opening.key, split(pair, opening, self.loaded.image_token))

    @staticmethod
    def _kind_of(question: _Question) -> object:
        return kind_of(question.pair)

    def _kind_of_tail(self, tail: Tail) -> object:
        # a window counts positions in the cache, and the padding of a shorter prefix would use some of them
        return tail.prefix.length if self.loaded.windowed else None

    def _passes(
        self, samples: Sequence[Packed], kind: Callable[[Packed], object], run: Callable[[Sequence[Packed]], Out]
    ) -> Iterator[Out]:
        for group in pack(samples, self._token_budget, kind):
            yield from self._halving(group, run)

    def _halving(self, group: Sequence[Packed], run: Callable[[Sequence[Packed]], Out]) -> Iterator[Out]:
        """Run a group; if it does not fit into memory, discard cached prefixes and run its halves, or it again."""
        try:
            output = run(group)
            BATCH.labels("scorer").observe(len(group))
            yield output
        except torch.OutOfMemoryError as error:
            freed = self._cache is not None and self._cache.make_room()
            if len(group) == 1 and not freed:
                raise TooLargeForDevice(
                    f"One pair of {group[0].length} tokens does not fit into the memory of {self._device}. Use smaller "
                    "pictures, a smaller model or a larger device."
                ) from error
            log.warning("batch_halved", pairs=len(group), tokens=group[0].length * len(group), prefixes_freed=freed)
        else:
            return
        # outside the handler: the exception keeps the memory of the failed pass alive
        half = max(1, len(group) // 2)
        yield from self._halving(group[:half], run)
        if len(group) > 1:
            yield from self._halving(group[half:], run)

    def _whole(self, group: Sequence[_Question], read: Reader) -> BatchOutput:
        """Compute whole questions; cache their prefixes if the cache can hold any."""
        batch = self._collated(group)
        layout = batch.layout.to(self._device)
        shows = bool(batch.pairs[0].pictures)
        reinjection = Reinjection(self._injection, self._plan, layout) if shows and self._plan.injectable else None
        inputs = self._features.inputs(batch)
        keeps = self._prefixes is not None and self._prefixes.open and any(question.split for question in group)
        with self._hooked(layout, reinjection), self._watching(batch, group, layout, reinjection):
            if keeps:
                logits, made = self._growing(inputs, group, batch.layout)
                self._keep(made)
            else:
                logits = self.loaded.module(**inputs).logits
        return _raw(group, reinjection, read(logits[:, -1]))

    def _make(self, group: Sequence[_Question]) -> dict[Key, Prefix]:
        """Compute only the prefixes."""
        batch = self._collated(group)
        inputs = self._features.inputs(batch)
        with self._hooked(batch.layout.to(self._device), None):
            _, made = self._growing(inputs, group, batch.layout)
        self._keep(made)
        return made

    def _growing(
        self, inputs: dict[str, Any], group: Sequence[_Question], layout: Layout
    ) -> tuple[Tensor, dict[Key, Prefix]]:
        """Run a forward pass; return its logits, and the prefixes from its keys and values."""
        cache = empty_cache()
        with capture_decoder_inputs(self.loaded.decoder.trunk) as decoder_inputs:
            logits = self.loaded.module(**inputs, past_key_values=cache, use_cache=True).logits
        prefixes = harvest(cache, [question.split for question in group], layout, decoder_inputs)
        return logits, {
            question.key: prefix for question, prefix in zip(group, prefixes, strict=True) if prefix is not None
        }

    def _keep(self, made: Mapping[Key, Prefix]) -> None:
        assert self._prefixes is not None
        PREFIXES.labels("computed").inc(len(made))
        for key, prefix in made.items():
            self._prefixes.put(key, prefix)

    def _tails(self, group: Sequence[Tail], read: Reader) -> BatchOutput:
        """Compute the tails of questions whose prefixes are known."""
        PREFIXES.labels("reused").inc(len(group))
        batch = collate_tails(group, self.loaded.preparer.pad_token, self._device)
        reinjection = None
        if self._plan.injectable:
            reinjection = Reinjection(self._injection, self._plan, batch.layout)
            reinjection.set_visual(batch.visual())
        with self._hooked(batch.layout, reinjection):
            logits: Tensor = self.loaded.module(**batch.inputs, past_key_values=batch.cache(), use_cache=True).logits
        return _raw(group, reinjection, read(logits[:, -1]))

    def _collated(self, group: Sequence[_Question]) -> Batch:
        pairs = [question.pair for question in group]
        return collate(pairs, pad_token=self.loaded.preparer.pad_token, image_token=self.loaded.image_token)

    def _hooked(self, layout: Layout, reinjection: Reinjection | None) -> AbstractContextManager[None]:
        return hooked(self.loaded.decoder, layout, reinjection, self._plan, self._feed_forwards)

    def _watching(
        self, batch: Batch, group: Sequence[_Question], layout: Layout, reinjection: Reinjection | None
    ) -> AbstractContextManager[None]:
        if self._recorder is None:
            return nullcontext()
        return self._recorder.watching([question.recorded for question in group], batch.pairs, layout, reinjection)


def _raw(group: Sequence[Sample], reinjection: Reinjection | None, values: Tensor) -> BatchOutput:
    if reinjection is None:
        armed = values.new_full((len(values), 1), NEVER)
        uncertainty = values.new_full((len(values), 1), torch.nan)
    else:
        armed, uncertainty = reinjection.armed[:, None].float(), reinjection.uncertainty[:, None]
    places = tuple((sample.index, sample.length) for sample in group)
    return BatchOutput(places, torch.cat([armed, uncertainty, values], dim=1))
