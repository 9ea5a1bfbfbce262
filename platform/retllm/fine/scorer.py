"""The fine stage: a multimodal model scores each (query, candidate) pair (method sections 3 and 4)."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial

import structlog
import torch
from PIL import Image

from retllm.errors import InvalidInput
from retllm.fine.content import Content, Picture, PreparedPicture
from retllm.fine.device import pick_device, pick_dtype
from retllm.fine.engine import Engine, Prompt
from retllm.fine.feedforward import FeedForward
from retllm.fine.fitting import AskedPair, TextFitter
from retllm.fine.injection import NO_INJECTION, Injection, LayerPlan
from retllm.fine.interface import FineScorer
from retllm.fine.memory import fitting_prefix_bytes, fitting_token_budget
from retllm.fine.model import LoadedModel, load_model
from retllm.fine.modes import ModeScorer, PendingScores, ScoreTask, make_mode_scorer
from retllm.fine.modes.traced import score_traced
from retllm.fine.modes.verbalized import most_likely
from retllm.fine.prefix import PrefixCache
from retllm.fine.prompts import Mode, Prompts, load_prompts
from retllm.fine.scores import PairScore, ScorerInfo
from retllm.fine.splitting import splits_exactly
from retllm.fine.tracing import Recorder
from retllm.fine.vision import PictureFeatures
from retllm.settings import default_of

log = structlog.get_logger(__name__)

#: to be incremented with every change of the arithmetic that changes scores
_ARITHMETIC = 1

#: a picture of usual shape, which every processor takes
_USUAL = (640, 480)

#: see ``Scorer.least_pixels``
_PIXELS_OVER = 2

#: see ``Scorer.pairs_at_once``
_PASSES = 2
_CALL_SECONDS = 2.0

#: weight of the last call in the running means of lengths and of seconds
_WEIGHT = 0.2

#: number of pairs prepared at a time; limits the memory for decoded pictures
_WINDOW = 32


class Scorer(FineScorer):
    """A loaded model that scores pairs; create it with :func:`load_scorer`.

    Handles one call at a time: calls from several threads wait for each other.
    """

    def __init__(
        self,
        model: str,
        loaded: LoadedModel,
        prompts: Prompts,
        token_budget: int,
        prefix_bytes: int,
        visual_bytes: int,
        picture_source: str = "original",
    ) -> None:
        self._picture_source = picture_source
        self._loaded = loaded
        self._prompts = prompts
        self._token_budget = token_budget
        self._lock = threading.Lock()
        self._features = PictureFeatures(loaded, token_budget, visual_bytes)
        self._prefixes = PrefixCache(prefix_bytes)
        self._fitter = TextFitter(loaded.preparer, prompts)
        self._splits: bool | None = None
        picture_tokens = loaded.preparer.picture_tokens
        assert picture_tokens is not None, "a loaded model has a picture budget"
        self._usual_tokens = float(picture_tokens)
        self._usual_seconds = 0.0
        self._feed_forwards: dict[int, FeedForward] = {}
        self._mode_scorers: dict[Mode, ModeScorer] = {"true_false": make_mode_scorer("true_false", prompts, loaded)}
        self._info = ScorerInfo(
            model=model,
            revision=loaded.revision,
            prompt_version=prompts.title,
            device=str(loaded.module.device),
            dtype=str(loaded.module.dtype).removeprefix("torch."),
            layers=len(loaded.decoder.layers),
            picture_tokens=picture_tokens,
        )

    @property
    def info(self) -> ScorerInfo:
        """What the scorer is."""
        return self._info

    def version(self, injection: Injection, mode: Mode = "true_false") -> str:
        """Return a short stable hash of everything that can change a score, to be stored with each score.

        The picture budget follows the hash, and after it what pictures are read if that is not the originals, so that
        it is visible if two versions differ in them. A local folder is
        identified by its contents, not its path. Settings without effect (all of them, with the trigger off or alpha
        0) are not included.
        """
        folder = self._loaded.source.where == "folder"
        parts = {
            "arithmetic": _ARITHMETIC,
            "model": None if folder else self.info.model,
            "revision": self.info.revision,
            "prompts": self._prompts.version,
            "mode": mode,
            "injection": injection.as_json() if injection.active else None,
            "dtype": self.info.dtype,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        source = "" if self._picture_source == "original" else f"-{self._picture_source}"
        return f"{digest}-{self.info.picture_tokens}{source}"

    def refresh(self) -> None:
        """Do nothing: a loaded model does not change."""

    @property
    def pairs_at_once(self) -> int:
        """How many pairs fill the token budget of two passes, by the lengths and the pace of recent pairs.

        The second pass is prepared while the device computes the first one. On a slow device they are fewer, so that
        results appear and a search can be cancelled every few seconds.
        """
        fitting = _PASSES * self._token_budget // max(1, round(self._usual_tokens))
        in_time = _CALL_SECONDS / self._usual_seconds if self._usual_seconds else fitting
        return max(1, min(fitting, int(in_time)))

    def prepares(self, picture: Picture) -> bool:
        """Return whether the picture has to be opened: nothing of it is cached."""
        return not (self._features.knows(picture.key) or self._prefixes.shows(picture.key))

    def prepare(self, picture: Picture) -> PreparedPicture:
        """See :class:`retllm.fine.interface.FineScorer`."""
        return self._loaded.preparer.pixels.prepared(picture)

    @cached_property
    def least_pixels(self) -> int:
        """Minimum number of pixels to which a JPEG may be reduced by its decoder before it is scored; 0 if unknown.

        They are at least twice as many as the model sees of a picture that uses the whole picture budget.
        """
        pair = self._loaded.preparer.pair(0, [Picture(Image.new("RGB", _USUAL)), "?"])
        pixels, tokens = pair.vision.get("pixel_values"), (pair.tokens["input_ids"] == self._loaded.image_token).sum()
        if pixels is None or not tokens:
            return 0
        # more than the pixels of the picture where it is padded, or counts as two frames of a film
        return math.ceil(_PIXELS_OVER * pixels.numel() / 3 / int(tokens) * self.info.picture_tokens)

    def score_pairs(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection | None = None,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        """Score every pair of a query and a candidate, in the given order.

        A pair's score does not depend on the other pairs of the call, beyond floating-point tolerance. A picture
        whose shape the model does not take is padded, and texts longer than its context are shortened; the score has a
        remark then. A pair that the model takes is not changed.

        Args:
            pairs: of one query or of several, in any mix of modalities.
            injection: visual re-injection; None for its defaults. Pairs without a picture are never injected.
            mode: how the scorer is asked.
            trace: also return a trace of each score of a pair with a picture. Takes more than twice the time: no
                question is split, and with re-injection every question is computed again without it.

        Raises:
            InvalidInput: the settings do not fit this model, or it can't take a pair (``detail["index"]``).
            ModelUnsuited: the model does not support this mode, or its layers do not support re-injection.
            TooLargeForDevice: a single pair is too large for the device's memory.
            ScoreUnreadable: the model's answer is not finite.
        """
        injection = Injection() if injection is None else injection
        plan = injection.plan(self.info.layers)
        began = time.monotonic()
        with self._lock, torch.inference_mode():
            for number in plan.injectable:
                if number not in self._feed_forwards:
                    self._feed_forwards[number] = self._loaded.feed_forward(number)
            mode_scorer = self._mode_scorer(mode)
            pending: list[PendingScores] = []
            preparer = self._loaded.preparer
            with preparer.pictures_once():
                run = (
                    self._traced(mode_scorer, injection, plan)
                    if trace
                    else self._untraced(mode_scorer, injection, plan)
                )
                ask = partial(self._fitter.fit, wordings=mode_scorer.wordings, answer_tokens=mode_scorer.answer_tokens)
                # no step in this loop waits for the device: the next window is prepared while it computes
                for start in range(0, len(pairs), _WINDOW):
                    end = start + _WINDOW
                    asked = [ask(place, *pair) for place, pair in enumerate(pairs[start:end], start)]
                    scores = run(ScoreTask(asked))
                    pending.append(partial(_with_remarks, scores, [self._remark(pair) for pair in asked]))
                    # a call with thousands of pairs must not hold all their pixels; those of queries are used again
                    needed = {query.picture.key for query, _ in pairs[end:] if query.picture}
                    preparer.pixels.keep_only(needed)
                    self._features.keep_only(needed)
            self._features.keep_only(set())
            found = [score for read in pending for score in read()]
        if found:
            self._learn(sum(score.tokens for score in found) / len(found), (time.monotonic() - began) / len(found))
        return found

    def says(self, query: Content, candidate: Content) -> str | None:
        """See :class:`retllm.fine.interface.FineScorer`."""
        asked = Prompt(0, self._prompts.message("true_false", query, candidate))
        with self._lock, torch.inference_mode(), self._loaded.preparer.pictures_once():
            (answer,) = (
                self._engine(NO_INJECTION, NO_INJECTION.plan(self.info.layers)).answer([asked], most_likely).read()
            )
        return self._loaded.preparer.decode([int(answer.values[0])]).strip() or None

    def _learn(self, tokens: float, seconds: float) -> None:
        """Remember the length and the seconds of a pair, for :attr:`pairs_at_once`."""
        self._usual_tokens += _WEIGHT * (tokens - self._usual_tokens)
        self._usual_seconds += _WEIGHT * (seconds - self._usual_seconds) if self._usual_seconds else seconds

    def _remark(self, pair: AskedPair) -> str | None:
        """Return what of a pair was changed for the model; its pictures have been prepared."""
        remarks = list(pair.remarks)
        for name, content in (("query picture", pair.query), ("picture", pair.candidate)):
            size = self._loaded.preparer.pixels.padded(content.picture.key) if content.picture else None
            if size is not None:
                remarks.append(f"The {name} was padded to {size[0]:,} × {size[1]:,} pixels for the model.")
        return " ".join(remarks) or None

    def _untraced(
        self, mode_scorer: ModeScorer, injection: Injection, plan: LayerPlan
    ) -> Callable[[ScoreTask], PendingScores]:
        engine = self._engine(injection, plan)
        return lambda task: mode_scorer.score(engine, task)

    def _traced(
        self, mode_scorer: ModeScorer, injection: Injection, plan: LayerPlan
    ) -> Callable[[ScoreTask], PendingScores]:
        recorder = Recorder(self._loaded, injection, plan)
        watched = self._engine(injection, plan, recorder)
        plain = self._engine(NO_INJECTION, NO_INJECTION.plan(self.info.layers)) if plan.injectable else None

        def run(task: ScoreTask) -> PendingScores:
            scores = score_traced(mode_scorer, task, watched, recorder, plain)
            return lambda: scores

        return run

    def _engine(self, injection: Injection, plan: LayerPlan, recorder: Recorder | None = None) -> Engine:
        if self._splits is None:
            self._splits = splits_exactly(self._loaded, self._features, self._prompts, self._token_budget)
        prefixes = self._prefixes if self._splits else None
        budget = self._token_budget
        return Engine(self._loaded, self._features, self._feed_forwards, injection, plan, budget, prefixes, recorder)

    def forget(self) -> None:
        """Discard everything cached from earlier calls."""
        with self._lock:
            self._prefixes.clear()
            self._features.forget()

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Disable caching across calls and the splitting of questions, as the baseline of comparisons."""
        saved = self._prefixes, self._features, self._splits
        self._prefixes, self._splits = PrefixCache(0), False
        self._features = PictureFeatures(self._loaded, self._token_budget, 0)
        try:
            yield
        finally:
            self._prefixes, self._features, self._splits = saved
            self._features.attach()

    @property
    def loaded(self) -> LoadedModel:
        """The model and its processor."""
        return self._loaded

    @property
    def token_budget(self) -> int:
        """The maximum number of tokens in one forward pass."""
        return self._token_budget

    @property
    def prompts(self) -> Prompts:
        """The questions to the model."""
        return self._prompts

    def _mode_scorer(self, mode: Mode) -> ModeScorer:
        if mode not in self._mode_scorers:
            self._mode_scorers[mode] = make_mode_scorer(mode, self._prompts, self._loaded)
        return self._mode_scorers[mode]


def _with_remarks(scores: PendingScores, remarks: Sequence[str | None]) -> list[PairScore]:
    return [replace(score, remark=remark) for score, remark in zip(scores(), remarks, strict=True)]


def load_scorer(
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    token_budget: int | None = default_of("token_budget"),
    picture_tokens: int | None = default_of("picture_tokens"),
    prefix_bytes: int | None = default_of("prefix_cache_bytes"),
    visual_bytes: int = default_of("visual_cache_bytes"),
    picture_source: str = "original",
    profile: str | None = None,
) -> Scorer:
    """Load an image-text-to-text model as a scorer.

    Args:
        model: a local folder, or a hub name; only safetensors weights and classes of transformers are supported.
        revision: branch, tag or commit on the hub.
        device: ``auto`` (the GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), or a name such as ``float32``.
        token_budget: maximum number of tokens in one forward pass. None: what suits the device once the model is
            loaded (:mod:`retllm.fine.memory`).
        picture_tokens: maximum number of tokens of one picture. None: what the profile says, or else 1,024, or the
            fewest that the model makes of a picture.
        prefix_bytes: size of the cache of image prefixes (keys and values); 0 disables it. None: what the device has
            free once the model is loaded (:mod:`retllm.fine.memory`).
        visual_bytes: size of the cache of projected visual tokens; 0 disables it.
        picture_source: what the pictures to score are (``Settings.picture_source``); part of the version.
        profile: a profile of this package or a file (:mod:`retllm.profiles`); None for that of the model's family.

    Raises:
        InvalidInput: a budget is not positive, or the profile can't be used.
        ModelUnavailable: the model can't be loaded here; the message says what to do.
        ModelUnsuited: the model is loaded but can't be used as a scorer.
    """
    for field, budget in (("token_budget", token_budget), ("picture_tokens", picture_tokens)):
        if budget is not None and budget < 1:
            raise InvalidInput(f"{field} must be 1 or more, not {budget}.", field=field)
    chosen = pick_device(device)
    precision = pick_dtype(dtype, chosen)
    loaded = load_model(model, revision, chosen, precision, picture_tokens, load_prompts(), profile)
    return scorer_of(loaded, token_budget, prefix_bytes, visual_bytes, picture_source)


def scorer_of(
    loaded: LoadedModel,
    token_budget: int | None = default_of("token_budget"),
    prefix_bytes: int | None = default_of("prefix_cache_bytes"),
    visual_bytes: int = default_of("visual_cache_bytes"),
    picture_source: str = "original",
) -> Scorer:
    """Return a scorer with a loaded model; for the arguments see :func:`load_scorer`."""
    if token_budget is None:
        token_budget = fitting_token_budget(loaded.module)
    if prefix_bytes is None:
        prefix_bytes = fitting_prefix_bytes(loaded.module, token_budget, visual_bytes)
    log.info("scorer_caches", prefix_bytes=prefix_bytes, visual_bytes=visual_bytes, token_budget=token_budget)
    return Scorer(
        loaded.source.model,
        loaded,
        loaded.prompts,
        token_budget,
        prefix_bytes,
        visual_bytes,
        picture_source,
    )
