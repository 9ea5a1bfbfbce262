"""Scorers on servers that fail in part, quote secrets, or answer what can't be."""

from __future__ import annotations

import contextlib
import html
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from tests.scoring_server import OFFERS, ScoringServer, SmallModel

from retllm.demo.claims import caption
from retllm.demo.variants import gallery
from retllm.errors import ModelUnavailable, RetllmError, ScoreUnreadable, ServerAway, ServerBusy, ServerFailed
from retllm.fine import Content, Injection
from retllm.fine.interface import FineScorer
from retllm.fine.remote import answers, chat, client, contents

OFF = Injection(trigger="off")
TEXTS = [Content(text=caption(scene)) for members in gallery(1, 4713) for scene in members]
KEY = "sk-canary/of+a%key"

Open = Callable[..., FineScorer]


@pytest.fixture
def asks_for_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lists one token only, so that the labels are asked for by their ids."""
    monkeypatch.setattr("retllm.fine.remote.chat.TOP", 1)


@pytest.mark.usefixtures("asks_for_ids")
@pytest.mark.parametrize(
    ("fault", "error"), [(500, ServerFailed), (503, ServerAway), (429, ServerBusy), ("garbage", ServerFailed)]
)
@pytest.mark.parametrize("spelling", ["True", "\nTrue", "False"])
def test_a_failed_question_for_ids_is_an_error_and_is_asked_again(
    small: SmallModel, server: ScoringServer, opened: Open, fault: int | str, error: type[RetllmError], spelling: str
) -> None:
    scorer = opened()
    server.fault_of = lambda path, body: fault if path == "/tokenize" and body["prompt"] == spelling else None
    with pytest.raises(error):
        scorer.score(TEXTS[0], TEXTS[:1], OFF)
    server.fault_of = lambda path, body: None
    (found,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert found.score == pytest.approx(small.scorer.score(TEXTS[0], TEXTS[:1], OFF)[0].score, abs=1e-3)
    assert found.remark is None


@pytest.mark.usefixtures("asks_for_ids")
@pytest.mark.parametrize("fault", [400, 401, 404, 405])
def test_refused_ids_of_one_spelling_are_unknown_until_the_server_tells_them(
    small: SmallModel, server: ScoringServer, opened: Open, fault: int
) -> None:
    """No spelling counts as one that is no single token, which would have the probability 0."""
    scorer = opened()
    server.fault_of = lambda path, body: fault if path == "/tokenize" and body["prompt"] == "True" else None
    (found,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert found.error is not None or found.remark is not None
    server.fault_of = lambda path, body: None
    (found,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert found.score == pytest.approx(small.scorer.score(TEXTS[0], TEXTS[:1], OFF)[0].score, abs=1e-3)


@pytest.mark.parametrize("fault", [500, 501, 502, 503])
def test_a_tokenizer_that_always_fails_is_done_without(
    server: ScoringServer, opened: Open, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    """A gateway before the server may lead to its API alone."""
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.1)
    scorer = opened()
    # the labels are not among the two tokens that are told
    tokens = [{"token": token, "logprob": math.log(value)} for token, value in (("Yes", 0.995), ("No", 0.004))]
    server.instead = {"choices": [{"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": tokens}]}}]}
    server.fault_of = lambda path, body: fault if path == "/tokenize" else None
    for _ in range(chat._FAILURES):
        with contextlib.suppress(ServerAway, ServerFailed):
            scorer.score(TEXTS[0], TEXTS[:1], OFF)
    (found,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert found.remark is not None
    assert "only the likeliest tokens" in found.remark


@pytest.mark.usefixtures("asks_for_ids")
@pytest.mark.parametrize("fault", [400, "restricted"])
def test_ids_that_are_refused_for_one_pair_are_asked_for_with_the_next(
    small: SmallModel, server: ScoringServer, opened: Open, fault: int | str
) -> None:
    scorer = opened()

    def fault_of(path: str, body: dict[str, Any]) -> int | None:
        refused = "logprob_token_ids" in body or "allowed_token_ids" in body
        return 400 if refused and fault == 400 else None

    server.fault_of = fault_of
    if fault == "restricted":
        server.offers, server.processed = OFFERS - {"logprob_token_ids"}, True
    (found,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert found.error is not None or found.remark is not None
    server.fault_of, server.offers, server.processed = lambda path, body: None, OFFERS, False
    (found,) = scorer.score(TEXTS[0], TEXTS[1:2], OFF)
    assert found.score == pytest.approx(small.scorer.score(TEXTS[0], TEXTS[1:2], OFF)[0].score, abs=1e-3)
    assert found.remark is None


#: what servers quote, with the key at the beginning and across the place where a message is cut
QUOTES = (
    f"Incorrect API key: {KEY}",
    f"Authorization: Bearer {KEY}",
    *("x" * at + KEY for at in (185, 195)),
    *(form + "x" * 20_000 for form in (quote(KEY), html.escape(KEY))),
)


@pytest.mark.parametrize("says", QUOTES)
@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_key_in_the_message_of_a_server_is_hidden(
    server: ScoringServer, opened: Open, status: int, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = opened(scorer_key=KEY)
    server.says = says
    server.faults.extend(itertools.repeat(status, 1000))
    try:
        said = scorer.score(TEXTS[0], TEXTS[:1])[0].error or ""
    except RetllmError as error:
        said = str(error)
    assert "Incorrect" in said or "Bearer" in said or "xxx" in said
    written = capfd.readouterr()
    assert KEY[:6] not in said + written.out + written.err


def test_a_short_key_is_hidden_where_it_stands_alone(server: ScoringServer, opened: Open) -> None:
    server.says, server.faults = "the key is k3y, and monk3y is a word", type(server.faults)([400])
    (found,) = opened(scorer_key="k3y").score(TEXTS[0], TEXTS[:1])
    assert found.error == 'The scorer\'s server refused the pair: "the key is ***, and monk3y is a word".'


def test_a_key_in_any_other_answer_is_hidden(server: ScoringServer, opened: Open) -> None:
    scorer = opened(scorer_key=KEY)
    choice = {"message": {"content": f"your key is {KEY}"}, "finish_reason": "stop", "logprobs": None}
    server.instead = {"choices": [choice]}
    (written,) = scorer.score(TEXTS[0], TEXTS[:1], OFF, mode="verbalized")
    assert written.error is not None
    assert scorer.says(TEXTS[0], TEXTS[1]) is not None
    assert KEY[:6] not in written.error + str(scorer.says(TEXTS[0], TEXTS[1]))
    server.entry["model_dtype"] = f"float {KEY}"
    scorer.refresh()
    assert KEY[:6] not in scorer.info.dtype
    server.entry["id"] = f"of {KEY}"
    with pytest.raises(ModelUnavailable) as raised:
        scorer.refresh()
    assert KEY[:6] not in str(raised.value)


@pytest.mark.parametrize("fault", ["drip", "headers", "hints"])
def test_the_time_limit_covers_all_of_an_answer(server: ScoringServer, opened: Open, fault: str) -> None:
    scorer = opened(scorer_seconds=0.5)
    server.faults.extend(itertools.repeat(fault, 1000))
    with pytest.raises(ServerAway, match=r"it did not answer within 0\.5 s"):
        scorer.score(TEXTS[0], TEXTS[:3])


def test_a_second_answer_is_not_that_to_the_next_request(server: ScoringServer, opened: Open) -> None:
    scorer = opened()
    expected = [one.score for one in scorer.score(TEXTS[0], TEXTS[:3], OFF)]
    server.faults.append("twice")
    with pytest.raises(ServerFailed, match="more than one answer"):
        scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert [one.score for one in scorer.score(TEXTS[0], TEXTS[:3], OFF)] == expected


def test_a_packed_answer_is_refused_unopened(server: ScoringServer, opened: Open) -> None:
    scorer = opened()
    server.faults.extend(["packed"] * 10)
    with pytest.raises(ServerFailed, match="compressed"):
        scorer.score(TEXTS[0], TEXTS[:1])


@pytest.mark.parametrize(("steps", "taken"), [(0, True), (4, True), (-4, True), (16, False)])
def test_what_bfloat16_rounds_is_no_disagreement(steps: int, taken: bool) -> None:
    """Its steps are 1/8 for logits from 16 to 32."""
    listed = answers.as_listed([("x", math.log(0.6)), ("y", math.log(0.1))])
    assert chat._plausible([0.1 * math.exp(steps / 8)], listed) == taken


@pytest.mark.parametrize("rest", [-9999.0, -math.inf, math.log(1e-8)])
def test_probabilities_that_no_distribution_has_are_an_error_of_their_pair(rest: float) -> None:
    """What is not listed is less likely than what is, so that it can't have the rest of 1."""
    with pytest.raises(ScoreUnreadable, match="no distribution"):
        answers.as_listed([("True", math.log(0.5)), *((f"w{at}", rest) for at in range(19))])


@pytest.mark.parametrize("rest", [-9999.0, -math.inf])
@pytest.mark.parametrize("missing", [0.0, 1e-5, 5e-3])
def test_the_entropy_of_rounded_probabilities_is_possible_or_unknown(rest: float, missing: float) -> None:
    listed = answers.as_listed([("True", math.log(0.5)), ("False", math.log(0.5 - missing)), ("x", rest)])
    entropy = listed.entropy()
    assert entropy is None or entropy == pytest.approx(math.log(2), abs=0.02)


@pytest.mark.parametrize("rest", [-22.0, -25.0, -40.0, -9999.0])
@pytest.mark.parametrize("sure", ["True", "False"])
def test_rounding_makes_no_label_impossible(sure: str, rest: float) -> None:
    """Beside a probability that is rounded to 1, others are between nothing and the precision of the answer.

    Hosted servers write -9999 for whatever they do not tell.
    """
    listed = answers.as_listed([(sure, 0.0), *((f"w{at}", rest - at / 8) for at in range(19))])
    bounds = {label: listed.bounds([label, f" {label}"]) for label in ("True", "False")}
    odds = math.log(bounds["True"].middle) - math.log(bounds["False"].middle)
    least = rest - 18 / 8 if rest > -100 else math.log(answers.ROUNDING)
    assert abs(odds) == pytest.approx(-least, abs=1)
    assert (odds > 0) == (sure == "True")


def test_a_token_that_is_listed_twice_counts_once_or_twice() -> None:
    """It may be one, or two with the same text."""
    twice = [("True", math.log(0.45)), ("True", math.log(0.45)), ("False", math.log(0.1))]
    bounds = answers.as_listed(twice).bounds(["True"])
    assert (bounds.low, bounds.high) == pytest.approx((0.45, 0.9))
    with pytest.raises(ScoreUnreadable):
        bounds.remark()
    different = [("True", math.log(0.5)), ("True", math.log(0.4)), ("False", math.log(0.1))]
    assert answers.as_listed(different).bounds(["True"]).low == pytest.approx(0.9)


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens": None}, {"prompt_tokens": "x"}])
def test_a_score_does_not_depend_on_what_the_server_counts(server: ScoringServer, opened: Open, usage: Any) -> None:
    scorer = opened()
    (before,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    server.instead = server.last | {"usage": usage}
    (found,) = scorer.score(TEXTS[0], TEXTS[:1], OFF)
    assert (found.error, found.score, found.tokens) == (None, before.score, 0)


@pytest.mark.parametrize("value", [["x"], {"a": ["b"]}, 7, True, "x" * 100])
@pytest.mark.parametrize("name", ["owned_by", "root", "max_model_len", "model_dtype"])
def test_whatever_a_server_says_of_its_model_is_a_part_of_the_version(
    server: ScoringServer, opened: Open, name: str, value: Any
) -> None:
    before = opened().version(OFF)
    server.entry[name] = value
    scorer = opened()
    assert scorer.version(OFF) != before
    assert scorer.score(TEXTS[0], TEXTS[:1], OFF)[0].error is None


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (3, 9_000), (4_000, 3_000), (1, 1)])
@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_a_picture_of_any_shape_is_within_the_budget(size: tuple[int, int], tokens: int) -> None:
    fitted = contents._fitted(Image.new("RGB", size), tokens * contents.PIXELS_OF_TOKEN)
    assert fitted.width * fitted.height <= tokens * contents.PIXELS_OF_TOKEN
    assert fitted.size == size or size != (1, 1)


def test_the_version_does_not_depend_on_what_is_hidden(server: ScoringServer, opened: Open) -> None:
    server.entry["root"] = "canary-of-a-root"
    assert opened(scorer_key="canary-of-a-root").version(OFF) == opened().version(OFF)


@pytest.mark.parametrize("path", ["/version", "/tokenize"])
def test_what_a_gateway_keeps_from_people_but_not_the_api_is_done_without(
    server: ScoringServer, opened: Open, path: str
) -> None:
    server.entry["owned_by"] = "vllm"
    server.closed = {path}
    assert opened().score(TEXTS[0], TEXTS[:1], OFF)[0].score is not None


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PROXY", "garbage://u:canary-of-a-proxy@x"), ("SSL_CERT_FILE", "/nonexistent")]
)
def test_settings_of_connections_that_are_wrong_are_named(
    opened: Open, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelUnavailable, match=name) as caught:
        opened().score(TEXTS[0], TEXTS[:1], OFF)
    assert "canary" not in str(caught.value)


NONSENSE = (0, -1, 1e999, math.nan, 10**400, "x", [], {}, [None], True)


def parts_of(answer: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all parts of an answer, of lists those of the first two."""
    yield path
    inner = answer.items() if isinstance(answer, dict) else enumerate(answer[:2]) if isinstance(answer, list) else ()
    for key, value in inner:
        yield from parts_of(value, (*path, key))


def replaced(answer: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    keys = range(len(answer)) if isinstance(answer, list) else list(answer)
    made = {key: replaced(answer[key], path[1:], value) if key == path[0] else answer[key] for key in keys}
    return list(made.values()) if isinstance(answer, list) else made


@pytest.mark.parametrize(("protocol", "path"), [("openai", ""), ("rerank", ""), ("rerank", "/score")])
def test_an_answer_of_any_other_form_is_an_error_or_a_possible_score(
    server: ScoringServer, opened: Open, protocol: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0)
    scorer = opened(protocol, path)
    assert scorer.score(TEXTS[0], [TEXTS[1]])[0].error is None
    answer, refused = server.last, 0
    for part, value in itertools.product(list(parts_of(answer)), NONSENSE):
        server.instead = replaced(answer, part, value)
        try:
            (found,) = scorer.score(TEXTS[0], [TEXTS[1]])
        except RetllmError:
            refused += 1
            continue
        # PostgreSQL's integer
        assert 0 <= found.tokens < 1 << 31, (part, value)
        if found.error is None:
            assert found.score is not None, (part, value)
            assert 0 <= found.score <= 1, (part, value)
            assert math.isfinite(found.log_odds or 0), (part, value)
            assert 0 <= (found.entropy or 0) < math.inf, (part, value)
    assert refused
