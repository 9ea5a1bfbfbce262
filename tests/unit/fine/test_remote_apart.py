"""Each pair has its own exchange with the server: one that fails there takes no other with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.scoring_server import MODEL, ScoringServer

from retllm.demo.claims import caption
from retllm.demo.variants import gallery
from retllm.errors import ModelUnavailable, ServerAway, ServerBusy, ServerFailed
from retllm.fine import Content, PairScore
from retllm.fine.interface import FineScorer

QUERY = Content(text="a red circle")
TEXTS = [Content(text=caption(scene)) for members in gallery(1, 4713) for scene in members][:4]
GUILTY = Content(text="the guilty one")
PAIRS = [(QUERY, text) for text in (TEXTS[0], GUILTY, *TEXTS[1:])]

Open = Callable[..., FineScorer]
Fault = str | int


def only_at(guilty: Content, fault: Fault) -> Callable[[str, dict[str, Any]], Fault | None]:
    return lambda path, body: fault if str(guilty.text) in str(body) else None


def everywhere(fault: Fault) -> Callable[[str, dict[str, Any]], Fault | None]:
    return lambda path, body: fault


def kinds(found: Sequence[PairScore | Exception]) -> list[type]:
    return [type(one) for one in found]


FAULTS = {
    "hang": "it did not answer within 1 s",
    "drip": "it did not answer within 1 s",
    "cut": "it cut the connection",
    503: "it answers 503",
    504: "it answers 504",
    500: 'it answers 500 ("as ordered")',
    "garbage": "answered something that is no JSON",
}


@pytest.mark.parametrize(("protocol", "path"), [("openai", ""), ("rerank", ""), ("rerank", "/score")])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_pair_has_its_error_and_the_others_have_their_scores(
    server: ScoringServer, opened: Open, fault: Fault, protocol: str, path: str
) -> None:
    scorer = opened(protocol, path, scorer_seconds=1, scorer_requests=2)
    server.fault_of = only_at(GUILTY, fault)
    first, guilty, *others = scorer.score_each(PAIRS)
    assert kinds([first, *others]) == [PairScore] * 4
    assert type(guilty) is ServerFailed
    assert FAULTS[fault] in guilty.message
    assert "is away" not in guilty.message
    with pytest.raises(ServerFailed):
        scorer.score_pairs(PAIRS)


@pytest.mark.parametrize("fault", ["hang", "cut", 503])
def test_a_server_that_answers_nothing_is_away_and_is_asked_no_more(
    server: ScoringServer, opened: Open, fault: Fault
) -> None:
    """Its list of models is no evidence: the model behind it may be stuck."""
    scorer = opened(scorer_seconds=0.5, scorer_requests=1)
    asked: list[str] = []

    def fault_of(path: str, body: dict[str, Any]) -> Fault:
        asked.append(str(body))
        return fault

    server.fault_of = fault_of
    found = scorer.score_each(PAIRS)
    assert kinds(found) == [type(found[0])] * 5
    assert isinstance(found[0], ServerAway)
    assert "is away" in found[0].message
    # the first pair, and the small question
    assert not [body for body in asked for _, text in PAIRS[1:] if str(text.text) in body]
    assert [body for body in asked if str(PAIRS[0][1].text) not in body]


def test_what_was_answered_before_the_server_takes_no_more_is_kept(server: ScoringServer, opened: Open) -> None:
    scorer = opened(scorer_requests=1)
    server.fault_of = only_at(GUILTY, 429)
    server.retry_after = "7"
    found = scorer.score_each(PAIRS)
    assert kinds(found) == [PairScore] + [ServerBusy] * 4
    assert [one.seconds for one in found[1:] if isinstance(one, ServerBusy)] == [7] * 4


def test_a_model_that_is_gone_ends_the_call(server: ScoringServer, opened: Open) -> None:
    scorer = opened(scorer_requests=1)
    server.fault_of = only_at(GUILTY, 404)
    assert kinds(scorer.score_each(PAIRS)) == [PairScore] + [ModelUnavailable] * 4


def test_many_pairs_that_fail_at_once_cost_one_small_question(server: ScoringServer, opened: Open) -> None:
    scorer = opened(scorer_seconds=1, scorer_requests=8)
    small: list[str] = []

    def fault_of(path: str, body: dict[str, Any]) -> Fault | None:
        if str(GUILTY.text) in str(body):
            return "hang"
        small.append(path)
        return None

    server.fault_of = fault_of
    found = scorer.score_each([(QUERY, GUILTY)] * 8)
    assert kinds(found) == [ServerFailed] * 8
    assert len(small) < 8


def test_nothing_is_kept_of_a_call_after_which_the_server_is_another(server: ScoringServer, opened: Open) -> None:
    scorer = opened()

    def fault_of(path: str, body: dict[str, Any]) -> None:
        server.entry["max_model_len"] = 77

    server.fault_of = fault_of
    with pytest.raises(ServerAway, match="another model or version"):
        scorer.score_each(PAIRS)
    assert MODEL in scorer.info.model
