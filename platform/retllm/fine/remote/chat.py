"""A scorer behind a server of chat completions (vLLM, SGLang and others that speak OpenAI's protocol)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from retllm.errors import ModelUnavailable, ScoreUnreadable, ServerAway, ServerFailed
from retllm.fine.content import Content
from retllm.fine.labels import changed_labels, no_token
from retllm.fine.odds import binary_entropy, clipped_log_odds, log_sigmoid, mean_log_odds
from retllm.fine.prompts import Labels, Mode, Prompts, Wording, load_prompts, with_profile
from retllm.fine.remote.answers import ROUNDING, TOP, Bounds, Listed, as_listed, listed_tokens
from retllm.fine.remote.client import Refused
from retllm.fine.remote.contents import parts_of, text_part
from retllm.fine.remote.scorer import RemotePair, RemoteScorer
from retllm.fine.scores import PairScore
from retllm.fine.written import MAX_NEW_TOKENS, truncated_answer, written_score
from retllm.profiles import choose_profile, names_of

#: servers that take arguments for the chat template; others may refuse what is not in OpenAI's protocol
_TAKES_TEMPLATE_ARGUMENTS = frozenset({"vllm", "sglang"})
#: the name of a token whose id was asked for (vLLM's ``return_tokens_as_token_ids``)
_ID = "token_id:"
#: two answers to the same question agree to this share of a probability: servers compute in bfloat16, whose steps are
#: 1/8 for logits from 16 to 32, and each of two logits may be two steps off
_AGREES = math.exp(4 / 8) - 1

#: of a question that any server can have; PostgreSQL stores such numbers
_MOST_TOKENS = 1_000_000_000

#: so often in a row a tokenizer fails that was never there
_FAILURES = 3


class ChatScorer(RemoteScorer):
    """Asks the questions of ``prompts.toml`` and reads the labels from the log-probabilities of the answer.

    The profile is the configured one, or that of the name under which the server knows the model, or of the name that
    the server tells besides (``root`` of vLLM).
    """

    modes: ClassVar[tuple[Mode, ...]] = ("true_false", "verbalized", "choice")

    @property
    def prompts(self) -> Prompts:
        """See :class:`RemoteScorer`."""
        names = [self._address.model, str(self.served.get("root", ""))]
        return _prompts_of(self._profile, tuple(name for full in names for name in names_of(full)))

    @property
    def _models_url(self) -> str:
        return f"{self._address.api}/models"

    def _score_pair(self, pair: RemotePair, mode: Mode) -> PairScore:
        if mode == "verbalized":
            return self._verbalized(pair)
        if mode == "choice":
            return self._choice(pair)
        return self._true_false(pair)

    def _true_false(self, pair: RemotePair) -> PairScore:
        labels, of_labels = self.prompts.labels["true_false"], self.prompts.of_labels

        def score(listed: Listed) -> Bounds:
            return _share(listed, labels) if of_labels else listed.bounds(labels.positive)

        listed, tokens = self._listed(pair, "true_false", labels, score)
        bounds = score(listed)
        remark = bounds.remark()
        log_odds = _odds(listed, labels) if of_labels else _odds_of_all(listed, labels)
        return PairScore(
            score=min(math.exp(log_sigmoid(log_odds)) if of_labels else bounds.middle, 1.0),
            log_odds=log_odds,
            entropy=binary_entropy(log_odds) if of_labels else listed.entropy(),
            injected_layer=None,
            uncertainty=None,
            tokens=tokens,
            remark=remark,
            mass=_mass(listed, labels),
        )

    def _choice(self, pair: RemotePair) -> PairScore:
        labels = self.prompts.labels["choice"]
        first, tokens = self._listed(pair, "choice", labels, lambda listed: _share(listed, labels))
        second, _ = self._listed(pair, "choice_swapped", labels, lambda listed: _share(listed, labels))
        log_odds = mean_log_odds(_odds(first, labels), -_odds(second, labels))
        one, other = _share(first, labels), _share(second, labels)
        # the letters of the second order have the swapped meanings
        bounds = Bounds((one.low + 1 - other.high) / 2, (one.high + 1 - other.low) / 2)
        return PairScore(
            score=math.exp(log_sigmoid(log_odds)),
            log_odds=log_odds,
            entropy=binary_entropy(log_odds),
            injected_layer=None,
            uncertainty=None,
            tokens=tokens,
            remark=bounds.remark(),
            mass=min(_mass(first, labels), _mass(second, labels)),
        )

    def says(self, query: Content, candidate: Content) -> str | None:
        """See :class:`retllm.fine.interface.FineScorer`."""
        pair = RemotePair(query, candidate, self._urls(query, 0) | self._urls(candidate, 0))
        return self._text_of(self._ask(pair, "true_false", max_tokens=1)[0]) or None

    def _text_of(self, choice: Mapping[str, Any]) -> str:
        message = choice.get("message")
        return self._client.redacted(str((message.get("content") if isinstance(message, dict) else None) or ""))

    def _verbalized(self, pair: RemotePair) -> PairScore:
        choice, tokens = self._ask(pair, "verbalized", max_tokens=MAX_NEW_TOKENS)
        text = self._text_of(choice)
        written = written_score(text, ended=choice.get("finish_reason") != "length")
        written = written or truncated_answer(text, MAX_NEW_TOKENS)
        return PairScore(
            score=written.score,
            log_odds=None if written.score is None else clipped_log_odds(written.score),
            entropy=None,
            injected_layer=None,
            uncertainty=None,
            tokens=tokens,
            error=written.error,
        )

    def _listed(
        self, pair: RemotePair, wording: Wording, labels: Labels, needed: Callable[[Listed], Bounds]
    ) -> tuple[Listed, int]:
        """Return the distribution of the answer's first token, from which what is ``needed`` is known if possible."""
        choice, tokens = self._ask(pair, wording, max_tokens=1, logprobs=True, top_logprobs=TOP)
        listed = as_listed(listed_tokens(choice))
        if needed(listed).close:
            return listed, tokens
        return replace(listed, exact=self._exact(pair, wording, listed, labels)), tokens

    def _ask(self, pair: RemotePair, wording: Wording, **options: Any) -> tuple[Mapping[str, Any], int]:
        """Return the first choice of an answer, and the number of tokens of the question."""
        prompts = self.prompts
        message = prompts.message(wording, pair.query, pair.candidate)
        system = [] if prompts.system is None else [{"role": "system", "content": [text_part(prompts.system)]}]
        body = {
            "model": self._address.model,
            "messages": [*system, {"role": "user", "content": parts_of(message, pair.urls)}],
            "temperature": 0,
            **options,
        }
        if self.served.get("owned_by") in _TAKES_TEMPLATE_ARGUMENTS:
            body["chat_template_kwargs"] = dict(prompts.template_arguments)
        answer = self._client.post(f"{self._address.api}/chat/completions", body)
        try:
            choice: dict[str, Any] = dict(answer["choices"][0])
            return choice, _tokens_of(answer.get("usage"))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerFailed(
                f"The server of the scorer {self._address.name} answered in another form than that of its protocol."
            ) from error

    # the labels that are not among the most likely tokens

    def _exact(self, pair: RemotePair, wording: Wording, listed: Listed, labels: Labels) -> dict[str, float]:
        """Ask for the probability of each spelling that is not listed; empty if the server can't be asked for it."""
        spellings = (*labels.positive, *labels.negative)
        ids = self._label_ids()
        if not ids:
            return {}
        seen = {text for text, _ in listed.tokens}
        wanted = {token: text for token, text in ids.items() if text in spellings and text not in seen}
        exact = self._asked(pair, wording, wanted) if wanted else {}
        if len(exact) < len(wanted) or not _plausible(exact.values(), listed):
            exact = self._forced(pair, wording, wanted, listed)
        # the next pair is asked anew: what one pair meets with says nothing of the others
        if len(exact) < len(wanted):
            return {}
        # a spelling that is no single token is never the first token of an answer
        sums = dict.fromkeys(spellings, 0.0)
        for token, value in exact.items():
            sums[wanted[token]] += value
        return sums

    def _asked(self, pair: RemotePair, wording: Wording, wanted: Mapping[int, str]) -> dict[int, float]:
        """Return the probabilities of tokens by their ids, those that the server tells."""
        found = self._named(pair, wording, logprob_token_ids=sorted(wanted))
        return {token: math.exp(found[name]) for token in wanted if (name := f"{_ID}{token}") in found}

    def _forced(
        self, pair: RemotePair, wording: Wording, wanted: Mapping[int, str], listed: Listed
    ) -> dict[int, float]:
        """Ask for each token alone, as the only one that the server may answer; it still tells the true probability."""
        exact: dict[int, float] = {}
        for token in wanted:
            found = self._named(pair, wording, allowed_token_ids=[token])
            if f"{_ID}{token}" not in found:
                return {}
            exact[token] = math.exp(found[f"{_ID}{token}"])
            if not _plausible(exact.values(), listed):
                return {}
        return exact

    def _named(self, pair: RemotePair, wording: Wording, **wanted: list[int]) -> dict[str, float]:
        """Return log-probabilities by the names that have the tokens' ids; empty if the server does not take that."""
        shown = {"max_tokens": 1, "logprobs": True, "top_logprobs": 0, "return_tokens_as_token_ids": True}
        try:
            return dict(listed_tokens(self._ask(pair, wording, **shown, **wanted)[0]))
        except (Refused, ScoreUnreadable):
            return {}

    _known_ids: dict[int, str] | None = None
    _tokenizer_failures = 0

    def _label_ids(self) -> dict[int, str]:
        """Return the tokens of all labels by id, from the server's tokenizer; empty while it does not tell all.

        They are kept until the server says something else of itself. What it does not tell is asked for again.

        Raises:
            ServerAway, ServerFailed: it can't answer now, for the first few times.
        """
        if self._known_ids is not None:
            return self._known_ids
        spellings = [text for labels in self.prompts.labels.values() for text in (*labels.positive, *labels.negative)]
        found: dict[int, str] = {}
        try:
            # some tokenizers encode a word differently after other text
            for before in ("", "\n"):
                start = self._tokenized(before) if before else []
                for spelling in spellings:
                    ids = self._tokenized(before + spelling)
                    if ids[: len(start)] == start and len(ids) == len(start) + 1:
                        found.setdefault(ids[-1], spelling)
        except (Refused, ModelUnavailable, LookupError, TypeError, ValueError, OverflowError):
            # it has no such endpoint, or another one of that name
            return {}
        except (ServerAway, ServerFailed):
            self._tokenizer_failures += 1
            if self._tokenizer_failures < _FAILURES:
                raise
            # what stands before the server may never lead there; then scores are between bounds, and say so
            return {}
        self._tokenizer_failures = 0
        self._known_ids = found
        return found

    def _check_labels(self) -> None:
        """Check the answers that the profile changes, if the server has a tokenizer to ask.

        Raises:
            ModelUnsuited: one is not a single token; the message names the profile.
            ServerAway, ServerFailed: it can't answer now.
        """
        prompts = self.prompts
        changed = changed_labels(prompts)
        tokens = set(self._label_ids().values()) if changed else set()
        for mode in changed if tokens else ():
            for spellings in (prompts.labels[mode].positive, prompts.labels[mode].negative):
                if tokens.isdisjoint(spellings):
                    raise no_token(self._address.name, prompts, mode, spellings)

    def refresh(self) -> None:
        """See :class:`RemoteScorer`."""
        before = self._served
        super().refresh()
        if self._served != before:
            self._known_ids = None
            self._check_labels()

    def _tokenized(self, text: str) -> list[int]:
        body = {"model": self._address.model, "prompt": text, "add_special_tokens": False}
        tokens = self._client.post(f"{self._address.root}/tokenize", body)["tokens"]
        if not tokens:
            raise ValueError("a text has tokens")
        return [int(token) for token in tokens]


@cache
def _prompts_of(profile: str | None, names: tuple[str, ...]) -> Prompts:
    return with_profile(load_prompts(), choose_profile(profile, None, names))


def _tokens_of(usage: Any) -> int:
    """Return the number of tokens of a question, which is told with a score; 0 if the server says none."""
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens <= _MOST_TOKENS else 0


def _mass(listed: Listed, labels: Labels) -> float:
    """Return the probability of both labels together."""
    return min(listed.bounds((*labels.positive, *labels.negative)).middle, 1.0)


def _odds_of_all(listed: Listed, labels: Labels) -> float:
    """Return the log-odds of the positive label against all other answers."""
    return math.log(listed.bounds(labels.positive).middle) - math.log(listed.others(labels.positive))


def _plausible(values: Collection[float], listed: Listed) -> bool:
    """Return whether tokens that are not among the most likely ones can have these probabilities.

    A server that ignores an option, or gives probabilities after the restriction to some tokens, answers other ones.
    """
    most, together = (bound * (1 + _AGREES) + ROUNDING for bound in (listed.least, listed.missing))
    return all(value <= min(most, 1 - ROUNDING) for value in values) and sum(values) <= together


def _odds(listed: Listed, labels: Labels) -> float:
    """Return the log-odds of the first letter against the second."""
    positive, negative = listed.bounds(labels.positive), listed.bounds(labels.negative)
    return math.log(positive.middle) - math.log(negative.middle)


def _share(listed: Listed, labels: Labels) -> Bounds:
    """Return the bounds of the first letter's share of both; 0 to 1 if the server tells of neither."""
    positive, negative = listed.bounds(labels.positive), listed.bounds(labels.negative)
    low = positive.low / (positive.low + negative.high) if positive.low else 0.0
    high = positive.high / (positive.high + negative.low) if positive.high + negative.low else 1.0
    return Bounds(low, high)
