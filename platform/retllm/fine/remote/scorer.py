"""What scorers on servers have in common: what the server says of itself, versions, and pairs in parallel."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from retllm.errors import InvalidInput, ModelUnavailable, ModelUnsuited, ScoreUnreadable, ServerAway
from retllm.fine.content import Content, Picture
from retllm.fine.injection import NO_INJECTION, Injection
from retllm.fine.interface import FineScorer
from retllm.fine.prompts import Mode, Prompts, load_prompts
from retllm.fine.remote.client import Client, Refused
from retllm.fine.remote.contents import PIXELS_OF_TOKEN, data_url
from retllm.fine.remote.exchanges import Exchanges
from retllm.fine.scores import PairScore, ScorerInfo
from retllm.logs import carried
from retllm.scorer_address import ScorerAddress

#: to be incremented with every change of the requests or of the arithmetic that changes scores
_ARITHMETIC = 3

#: what a server may say of its model that stays the same when it is started again
_LASTING = ("id", "root", "max_model_len", "owned_by", "model_id", "model_sha", "model_dtype", "version")

#: what a server that answers at all can answer: it is asked about when another pair got no answer
LEAST = Content(text="a")

#: as for a scorer in this process: how many more pixels than the model sees a decoder has to keep
_PIXELS_OVER = 2


@dataclass(frozen=True, slots=True, eq=False)
class RemotePair:
    """One pair to ask about.

    Attributes:
        query, candidate: the contents.
        urls: the data URLs of their pictures by the pictures' keys.
    """

    query: Content
    candidate: Content
    urls: dict[str, str]


class RemoteScorer(FineScorer, ABC):
    """A scorer whose model a server runs. Connects when it is first used.

    Args:
        address: of the server.
        client: sends the requests.
        picture_tokens: the configured picture budget.
        requests: maximum number of pairs that are asked about at a time.
        picture_source: what the pictures to score are (``Settings.picture_source``); part of the version.
        profile: the configured profile; None for that of the model's family.
    """

    modes: ClassVar[tuple[Mode, ...]]

    def __init__(
        self,
        address: ScorerAddress,
        client: Client,
        picture_tokens: int | None,
        requests: int,
        picture_source: str,
        profile: str | None = None,
    ) -> None:
        self._address = address
        self._client = client
        self._configured_tokens = picture_tokens
        self._requests = requests
        self._picture_source = picture_source
        self._profile = profile
        self._served: dict[str, str | int | float] | None = None

    @property
    def served(self) -> dict[str, str | int | float]:
        """What the server said of its model when it was last asked; it is asked now if it never was."""
        if self._served is None:
            self.refresh()
        assert self._served is not None
        return self._served

    def refresh(self) -> None:
        """Ask the server what it serves now. For the errors see :class:`retllm.fine.interface.FineScorer`."""
        try:
            found = self._describe()
        except Refused as error:
            raise ModelUnavailable(f"The server of the scorer {self._address.name} does not work: {error}.") from error
        self._served = {name: _plain(found[name]) for name in _LASTING if found.get(name) is not None}

    def _describe(self) -> dict[str, Any]:
        """Return what the server says of the model: an entry of its list of models, and its version."""
        listed = self._client.get(self._models_url)
        models = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            return {"id": self._address.model}
        found = next((model for model in models if model.get("id") == self._address.model), None)
        if found is None:
            names = ", ".join(sorted(str(model.get("id")) for model in models)[:5]) or "none"
            raise ModelUnavailable(
                f"The server of the scorer has no model {self._address.model}. It has: {names}. Correct its address.",
                model=self._address.name,
            )
        version = self._version() if found.get("owned_by") == "vllm" else None
        return {**found, **(version if isinstance(version, dict) else {})}

    def _version(self) -> Any:
        try:
            return self._client.get(f"{self._address.root}/version")
        except (Refused, ModelUnavailable):
            # what stands before the server may lead to nothing but its API
            return None

    @property
    def _models_url(self) -> str:
        return f"{self._address.root}/v1/models"

    @property
    def info(self) -> ScorerInfo:
        """What the scorer is; ``revision`` is a hash of what the server says of itself."""
        said = json.dumps(self.served, sort_keys=True)
        return ScorerInfo(
            model=self._address.name,
            revision=hashlib.sha256(said.encode()).hexdigest()[:16],
            prompt_version=self.prompts.title,
            device="server",
            dtype=self._client.redacted(str(self.served.get("model_dtype", "unknown"))),
            layers=0,
            picture_tokens=self._picture_tokens,
        )

    @property
    def prompts(self) -> Prompts:
        """The questions; those of a reranker are its server's own."""
        return load_prompts()

    @property
    def _picture_tokens(self) -> int:
        return self.prompts.budget(self._configured_tokens)

    @property
    def least_pixels(self) -> int:
        """See :class:`retllm.fine.interface.FineScorer`."""
        return _PIXELS_OVER * PIXELS_OF_TOKEN * self._picture_tokens

    def version(self, injection: Injection, mode: Mode = "true_false") -> str:
        """Return a short stable hash of everything that is known to change a score.

        That is the model's name, what the server says of it, the prompts and the mode; not the address. The picture
        budget and what pictures are read follow, as for a scorer in this process.
        """
        info = self.info
        parts = {
            "remote": _ARITHMETIC,
            "model": info.model,
            "revision": info.revision,
            "prompts": self.prompts.version,
            "mode": mode,
            "injection": injection.as_json() if injection.active else None,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        source = "" if self._picture_source == "original" else f"-{self._picture_source}"
        return f"{digest}-{info.picture_tokens}{source}"

    @property
    def pairs_at_once(self) -> int:
        """See :class:`retllm.fine.interface.FineScorer`."""
        return self._requests

    def prepares(self, picture: Picture) -> bool:
        """Return false: the server prepares pictures."""
        del picture
        return False

    def prepare(self, picture: Picture) -> None:
        """Do nothing: the server prepares pictures."""

    def score_pairs(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection | None = None,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        """See :class:`retllm.fine.interface.FineScorer`. A pair that the server refuses has its reason as error."""
        scores: list[PairScore] = []
        for score in self.score_each(pairs, injection, mode=mode, trace=trace):
            if isinstance(score, Exception):
                raise score
            scores.append(score)
        return scores

    def score_each(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection | None = None,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore | Exception]:
        """See :class:`retllm.fine.interface.FineScorer`.

        Raises:
            ServerAway: also if it is not known whether all scores are those of one model.
        """
        if (injection or NO_INJECTION).active:
            raise ModelUnsuited("A scorer on a server can't re-inject visual tokens: set the trigger to off.")
        if trace:
            raise ModelUnsuited("A scorer on a server does not tell what its layers do: omit the trace.")
        if mode not in self.modes:
            raise ModelUnsuited(f"The scorer {self._address.name} has no mode {mode}.")
        self.prompts.check_mode(mode)
        before = self.served
        # a query's picture is encoded once for all its candidates
        queries: dict[int, dict[str, str]] = {}
        for place, (query, _) in enumerate(pairs):
            if id(query) not in queries:
                queries[id(query)] = self._urls(query, place)

        exchanges = Exchanges(self._address.name, lambda: self._score_pair(RemotePair(LEAST, LEAST, {}), mode))

        def ask(place: int) -> PairScore:
            query, candidate = pairs[place]
            pair = RemotePair(query, candidate, queries[id(query)] | self._urls(candidate, place))
            return self._scored(pair, mode)

        with ThreadPoolExecutor(max_workers=max(1, min(self._requests, len(pairs)))) as pool:
            asked = carried(lambda place: exchanges.outcome(partial(ask, place)))
            scores = list(pool.map(asked, range(len(pairs))))
        if any(isinstance(score, PairScore) for score in scores):
            self.refresh()
        if self.served != before:
            raise ServerAway("The server of the scorer was started with another model or version; asking it again.")
        return scores

    def _urls(self, content: Content, place: int) -> dict[str, str]:
        if content.picture is None:
            return {}
        try:
            return {content.picture.key: data_url(content.picture, self._picture_tokens)}
        except InvalidInput as error:
            if type(error) is not InvalidInput:
                raise
            raise InvalidInput(error.message, field="candidates", index=place) from error

    def _scored(self, pair: RemotePair, mode: Mode) -> PairScore:
        try:
            return self._score_pair(pair, mode)
        except Refused as error:
            return PairScore(None, None, None, None, None, 0, error=f"The scorer's server refused the pair: {error}.")
        except ScoreUnreadable as error:
            return PairScore(None, None, None, None, None, 0, error=error.message)

    @abstractmethod
    def _score_pair(self, pair: RemotePair, mode: Mode) -> PairScore:
        """Score one pair.

        Raises:
            Refused: the server does not accept it. ScoreUnreadable: its answer has no score.
            ModelUnsuited, ServerFailed, and the errors of :meth:`Client.post`.
        """


def _plain(value: Any) -> str | int | float:
    """Return what a server says of itself as a plain value, whatever it is."""
    return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
