"""The fine stage: one forward pass of a multimodal model for each (query, candidate) pair (method sections 3 and 4)."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog
import torch
from torch import Tensor

from retllm.errors import InvalidInput, ScoreUnreadable, TooLargeForDevice
from retllm.fine.batching import Batch, Layout, Pair, collate, pack
from retllm.fine.content import Content
from retllm.fine.device import pick_device, pick_dtype
from retllm.fine.feedforward import FeedForward
from retllm.fine.hooks import NEVER, Reinjection, hooked
from retllm.fine.injection import Injection, LayerPlan
from retllm.fine.model import LoadedModel, both_labels, load_model
from retllm.fine.prompts import Mode, Prompts, load_prompts
from retllm.fine.scores import PairScore, ScorerInfo
from retllm.fine.trigger import label_probability
from retllm.fine.vision import PictureFeatures

log = structlog.get_logger(__name__)

DEFAULT_TOKEN_BUDGET = 16_384
"""Most tokens, padding included, in one forward pass."""

#: raised when the arithmetic changes in a way that changes scores
_ARITHMETIC = 1

#: pairs prepared at a time, which bounds the memory that decoded pictures take
_WINDOW = 32


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
    """The outcome of one batch, still on the device."""

    #: of each pair, its place among the candidates and its length
    places: tuple[tuple[int, int], ...]
    #: (b, 4): score, entropy, injected layer, uncertainty
    values: Tensor


class Scorer:
    """A loaded model that judges pairs.

    One call at a time: calls from several threads wait for each other. Made by :func:`load_scorer`.
    """

    mode: Mode = "true_false"

    def __init__(self, model: str, loaded: LoadedModel, prompts: Prompts, token_budget: int) -> None:
        self._loaded = loaded
        self._prompts = prompts
        self._token_budget = token_budget
        self._lock = threading.Lock()
        self._feed_forwards: dict[int, FeedForward] = {}
        positive, _ = both_labels(loaded.preparer, prompts.labels[self.mode])
        self._device: torch.device = loaded.module.device
        self._labels = torch.tensor(positive, device=self._device)
        self.info = ScorerInfo(
            model=model,
            revision=loaded.revision,
            prompt_version=prompts.version,
            device=str(self._device),
            dtype=str(loaded.module.dtype).removeprefix("torch."),
            layers=len(loaded.decoder.layers),
        )

    def version(self, injection: Injection) -> str:
        """A short stable hash of everything that can change a score, to be stored with each score.

        A local folder counts by its contents, wherever it lies. Settings that change nothing (any, with the
        trigger off or alpha 0) do not count.
        """
        folder = self._loaded.source.where == "folder"
        parts = {
            "arithmetic": _ARITHMETIC,
            "model": None if folder else self.info.model,
            "revision": self.info.revision,
            "prompts": self.info.prompt_version,
            "mode": self.mode,
            "injection": injection.as_json() if injection.active else None,
            "dtype": self.info.dtype,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def score(
        self, query: Content, candidates: Sequence[Content], injection: Injection | None = None
    ) -> list[PairScore]:
        """Judge every candidate against the query, in the order given.

        A pair's score does not depend on the other candidates of the call, beyond floating-point tolerance.

        Args:
            query: what is looked for.
            candidates: what was found; any mix of modalities.
            injection: visual re-injection; None for its defaults. Pairs with no picture have none.

        Raises:
            InvalidInput: settings that do not fit this model, or a pair that it can't take (``detail["index"]``).
            ModelUnsuited: re-injection is asked of a model whose layers do not allow it.
            TooLargeForDevice: one pair alone is too large for the device's memory.
            ScoreUnreadable: the model's answer is not finite.
        """
        injection = Injection() if injection is None else injection
        plan = injection.plan(self.info.layers)
        with self._lock, torch.inference_mode():
            for number in plan.injectable:
                if number not in self._feed_forwards:
                    self._feed_forwards[number] = self._loaded.feed_forward(number)
            raw: list[_Raw] = []
            with self._loaded.preparer.pictures_once():
                features = PictureFeatures(self._loaded, self._token_budget)
                remaining = iter(enumerate(candidates))
                # nothing waits for the device in here: the next window is prepared while it computes
                while window := list(islice(remaining, _WINDOW)):
                    raw += self._score_window(query, window, injection, plan, features)
                    # a call of thousands must not hold the pixels of them all; the query's come again
                    features.keep_only(self._loaded.preparer.keep_only(query.image))
        return _read_back(raw, len(candidates))

    def _score_window(
        self,
        query: Content,
        window: list[tuple[int, Content]],
        injection: Injection,
        plan: LayerPlan,
        features: PictureFeatures,
    ) -> Iterator[_Raw]:
        preparer = self._loaded.preparer
        preparer.ahead(
            side.image for side in (query, *(candidate for _, candidate in window)) if side.image is not None
        )
        pairs = [
            preparer.pair(index, self._prompts.message(self.mode, query, candidate)) for index, candidate in window
        ]
        for group in pack(pairs, self._token_budget):
            yield from self._score_group(group, injection, plan, features)

    def _score_group(
        self, group: Sequence[Pair], injection: Injection, plan: LayerPlan, features: PictureFeatures
    ) -> Iterator[_Raw]:
        batch = collate(group, pad_token=self._loaded.preparer.pad_token, image_token=self._loaded.image_token)
        try:
            yield self._forward(batch, injection, plan, features)
        except torch.OutOfMemoryError as error:
            if len(group) == 1:
                raise TooLargeForDevice(
                    f"One pair of {group[0].length} tokens does not fit the memory of {self._device}. Use smaller "
                    "pictures, a smaller model or a larger device."
                ) from error
            log.warning("batch_halved", pairs=len(group), tokens=batch.layout.real.numel())
        else:
            return
        # outside the handler, whose error would keep the failed pass's memory alive
        half = len(group) // 2
        yield from self._score_group(group[:half], injection, plan, features)
        yield from self._score_group(group[half:], injection, plan, features)

    def _forward(self, batch: Batch, injection: Injection, plan: LayerPlan, features: PictureFeatures) -> _Raw:
        """One forward pass; nothing in it waits for the device."""
        layout: Layout = batch.layout.to(self._device)
        shows = bool(batch.pairs[0].pictures)
        reinjection = Reinjection(injection, plan, layout) if shows and plan.injectable else None
        inputs = features.inputs(batch)
        with hooked(self._loaded.decoder, layout, reinjection, plan, self._feed_forwards):
            logits: Tensor = self._loaded.module(**inputs).logits
        score, entropy = label_probability(logits[:, -1], self._labels)
        if reinjection is None:
            armed = torch.full_like(score, NEVER)
            uncertainty = torch.full_like(score, torch.nan)
        else:
            armed, uncertainty = reinjection.armed.float(), reinjection.uncertainty
        places = tuple((pair.index, pair.length) for pair in batch.pairs)
        return _Raw(places, torch.stack([score, entropy, armed, uncertainty], dim=1))


def _read_back(raw: Sequence[_Raw], count: int) -> list[PairScore]:
    """Fetch all outcomes from the device at once and put them in the candidates' order."""
    if not raw:
        return []
    values: list[list[float]] = torch.cat([one.values for one in raw]).cpu().tolist()
    places = [place for one in raw for place in one.places]
    scores: list[PairScore | None] = [None] * count
    for (index, length), (score, entropy, armed, uncertainty) in zip(places, values, strict=True):
        if score != score or entropy != entropy:
            raise ScoreUnreadable(
                "The model's answer is not a finite number; its precision may be too low (try bfloat16 or float32).",
                index=index,
            )
        scores[index] = PairScore(
            score=min(score, 1.0),
            entropy=entropy,
            injected_layer=None if armed == NEVER else int(armed),
            uncertainty=None if uncertainty != uncertainty else uncertainty,
            tokens=length,
        )
    return [score for score in scores if score is not None]


def load_scorer(
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> Scorer:
    """Load an image-text-to-text model as a scorer.

    Args:
        model: a local folder, or a hub name; safetensors weights and a class of transformers only.
        revision: branch, tag or commit on the hub.
        device: ``auto`` (the GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), or a name such as ``float32``.
        token_budget: most tokens in one forward pass.

    Raises:
        InvalidInput: the token budget is not positive.
        ModelUnavailable: the model can't be loaded here; the message says what to do.
        ModelUnsuited: it loads, but can't be asked this way.
    """
    if token_budget < 1:
        raise InvalidInput(f"token_budget must be 1 or more, not {token_budget}.", field="token_budget")
    chosen = pick_device(device)
    loaded = load_model(model, revision, chosen, pick_dtype(dtype, chosen))
    return Scorer(model, loaded, load_prompts(), token_budget)
