"""Scorers on servers, against a real HTTP server in front of the shipped model."""

from __future__ import annotations

import base64
import io
import itertools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from tests.scoring_server import MODEL, OFFERS, ScoringServer, SmallModel, serving

from retllm.demo.claims import caption
from retllm.demo.scenes import render
from retllm.demo.variants import gallery
from retllm.errors import (
    InvalidInput,
    ModelUnavailable,
    ModelUnsuited,
    ServerAway,
    ServerBusy,
    ServerFailed,
)
from retllm.fine import Content, Injection, PairScore, Picture
from retllm.fine.interface import FineScorer
from retllm.fine.opening import open_scorer
from retllm.fine.prompts import Mode
from retllm.fine.remote import answers, client
from retllm.fine.remote.chat import ChatScorer
from retllm.fine.remote.contents import PIXELS_OF_TOKEN, broken_up, data_url
from retllm.settings import Settings

#: of scores of the server against those of the model in this process
TOLERANCE = 1e-3
OFF = Injection(trigger="off")
SCENES = [scene for members in gallery(1, 4713) for scene in members]
PICTURES = [Content(image=render(scene, 96)) for scene in SCENES]
TEXTS = [Content(text=caption(scene)) for scene in SCENES]

Open = Callable[..., FineScorer]


def assert_same(remote: list[PairScore], local: list[PairScore]) -> None:
    for one, other in zip(remote, local, strict=True):
        assert one.error is None
        assert one.score == pytest.approx(other.score, abs=TOLERANCE)
        assert one.log_odds == pytest.approx(other.log_odds, abs=0.05)
        assert one.entropy is None or one.entropy == pytest.approx(other.entropy, abs=0.02)
        assert one.tokens == other.tokens
    order = sorted(range(len(local)), key=lambda at: round(local[at].score or 0, 3))
    assert [round(remote[at].score or 0, 3) for at in order] == sorted(round(one.score or 0, 3) for one in remote)


@pytest.mark.parametrize("mode", ["true_false", "choice"])
def test_scores_are_those_of_the_same_model_in_this_process(small: SmallModel, opened: Open, mode: Mode) -> None:
    scorer = opened()
    for query, candidates in ((TEXTS[0], PICTURES), (PICTURES[0], TEXTS), (PICTURES[1], PICTURES), (TEXTS[1], TEXTS)):
        assert_same(
            scorer.score(query, candidates, OFF, mode=mode), small.scorer.score(query, candidates, OFF, mode=mode)
        )


def test_written_scores_are_those_of_the_same_model_in_this_process(small: SmallModel, opened: Open) -> None:
    remote = opened().score(TEXTS[0], PICTURES, OFF, mode="verbalized")
    local = small.scorer.score(TEXTS[0], PICTURES, OFF, mode="verbalized")
    assert [one.score for one in remote] == pytest.approx([one.score for one in local], abs=TOLERANCE)
    assert [one.error is None for one in remote] == [one.error is None for one in local]


@pytest.mark.parametrize(
    ("offers", "last"),
    [(OFFERS, "logprob_token_ids"), (OFFERS - {"logprob_token_ids"}, "allowed_token_ids")],
)
@pytest.mark.parametrize("mode", ["true_false", "choice"])
def test_a_label_that_is_not_listed_is_asked_for_by_its_id(
    small: SmallModel,
    server: ScoringServer,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    offers: frozenset[str],
    last: str,
    mode: Mode,
) -> None:
    server.offers = offers
    monkeypatch.setattr("retllm.fine.remote.chat.TOP", 1)
    remote = opened().score(TEXTS[0], PICTURES, OFF, mode=mode)
    assert_same(remote, small.scorer.score(TEXTS[0], PICTURES, OFF, mode=mode))
    assert any(last in body for _, body in server.asked)
    assert all(one.remark is None for one in remote)


def test_without_ids_a_label_that_is_not_listed_has_bounds_or_no_score(
    small: SmallModel, server: ScoringServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offers = frozenset({"logprobs", "pictures"})
    monkeypatch.setattr("retllm.fine.remote.chat.TOP", 1)
    monkeypatch.setattr(answers, "_WIDEST", 0.02)
    remote = opened().score(TEXTS[0], PICTURES, OFF)
    local = small.scorer.score(TEXTS[0], PICTURES, OFF)
    assert {one.error is None for one in remote} == {True, False}
    for one, other in zip(remote, local, strict=True):
        if one.error is None:
            assert one.score == pytest.approx(other.score, abs=0.01)
        else:
            assert "tells too few token probabilities" in one.error
            assert other.score > 0.02


def test_probabilities_after_a_restriction_are_not_taken_for_the_true_ones(
    small: SmallModel, server: ScoringServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offers, server.processed = OFFERS - {"logprob_token_ids"}, True
    monkeypatch.setattr("retllm.fine.remote.chat.TOP", 1)
    remote = opened().score(TEXTS[0], PICTURES, OFF)
    local = small.scorer.score(TEXTS[0], PICTURES, OFF)
    assert [one.score for one in remote] == pytest.approx([one.score for one in local], abs=0.03)
    assert remote[1].remark is not None
    assert "the score is between 0.0000 and 0.02" in remote[1].remark


def test_bounds_hold_for_every_number_of_listed_tokens() -> None:
    """Against a distribution whose probabilities are known."""
    known = {"False": 0.6, "True": 0.2, " True": 0.04, "x": 0.1, "y": 0.05, "z": 0.01}
    spellings, truth = ("True", " True"), 0.24
    entropy = -sum(value * math.log(value) for value in known.values())
    by_size = sorted(known.items(), key=lambda pair: -pair[1])
    for number in range(1, len(by_size) + 1):
        listed = answers.as_listed([(text, math.log(value)) for text, value in by_size[:number]])
        bounds = listed.bounds(spellings)
        assert bounds.low - 1e-9 <= truth <= bounds.high + 1e-9
        told = listed.entropy()
        assert told is None or told == pytest.approx(entropy, abs=0.011)
    assert bounds.close
    assert listed.others(spellings) == pytest.approx(0.76)
    assert listed.entropy() == pytest.approx(entropy)


@pytest.mark.parametrize("path", ["", "/v1", "/score"])
def test_a_reranker_scores_texts_and_pictures(
    small: SmallModel, server: ScoringServer, opened: Open, path: str
) -> None:
    scorer = opened("rerank", path)
    for candidates in (PICTURES, TEXTS):
        remote = scorer.score(TEXTS[0], candidates)
        local = small.scorer.score(TEXTS[0], candidates, OFF)
        assert [one.score for one in remote] == pytest.approx([one.score for one in local], abs=TOLERANCE)
        assert [one.entropy for one in remote] == [None] * len(remote)
    assert scorer.info.model == f"rerank:{MODEL}"


def test_a_reranker_of_text_embeddings_inference_takes_texts_only(
    small: SmallModel, server: ScoringServer, opened: Open
) -> None:
    server.info = {"model_id": MODEL, "model_sha": "abc", "version": "1.8"}
    scorer = opened("rerank")
    (text,) = scorer.score(TEXTS[0], [TEXTS[1]])
    assert text.score == pytest.approx(small.scorer.score(TEXTS[0], [TEXTS[1]], OFF)[0].score, abs=TOLERANCE)
    (picture,) = scorer.score(TEXTS[0], [PICTURES[0]])
    assert picture.error == "The scorer's server refused the pair: it compares texts only."


def test_scores_beyond_1_are_an_error_of_their_pair(server: ScoringServer, opened: Open) -> None:
    server.scale = -3.0
    (score,) = opened("rerank").score(TEXTS[0], [TEXTS[0]])
    assert score.error is not None
    assert "not from 0 to 1" in score.error


@pytest.mark.parametrize("fault", ["cut", "half", 429, 502, 503, 500])
def test_a_passing_failure_is_repeated(
    server: ScoringServer, opened: Open, monkeypatch: pytest.MonkeyPatch, fault: str | int
) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 60)
    scorer = opened()
    server.faults.extend([fault])
    (score,) = scorer.score(TEXTS[0], [PICTURES[0]])
    assert score.error is None


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("cut", ServerAway, f"The server of the scorer openai:{MODEL} is away: it cut the connection."),
        ("half", ServerAway, f"The server of the scorer openai:{MODEL} is away: it cut the connection."),
        (429, ServerBusy, f"The server of the scorer openai:{MODEL} takes no more requests for now (429)."),
        (503, ServerAway, f"The server of the scorer openai:{MODEL} is away: it answers 503."),
        (500, ServerFailed, f'The server of the scorer openai:{MODEL} fails: it answers 500 ("as ordered").'),
        ("garbage", ServerFailed, "answered something that is no JSON: check its address."),
        ("endless", ServerFailed, f"The server of the scorer openai:{MODEL} sent an endless answer."),
        ("drip", ServerAway, f"The server of the scorer openai:{MODEL} is away: it did not answer within 0.5 s."),
        ("hang", ServerAway, f"The server of the scorer openai:{MODEL} is away: it did not answer within 0.5 s."),
    ],
)
def test_a_lasting_failure_has_its_error(
    server: ScoringServer, opened: Open, fault: str | int, error: type[Exception], message: str
) -> None:
    scorer = opened(scorer_seconds=0.5 if fault in ("hang", "drip") else 60)
    server.faults.extend(itertools.repeat(fault, 1000))
    with pytest.raises(error) as raised:
        scorer.score(TEXTS[0], PICTURES[:3])
    assert message in str(raised.value)
    assert server.root not in str(raised.value)


def test_a_server_that_goes_away_in_a_request_is_away(
    server: ScoringServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = opened()

    def end(_: object) -> bool:
        threading.Thread(target=server.go_away).start()
        return False

    monkeypatch.setattr(ScoringServer, "takes_more", end)
    with pytest.raises(ServerAway, match="is away"):
        scorer.score(TEXTS[0], PICTURES[:1])


#: in place of any part of an answer
def test_no_more_pairs_are_asked_about_at_once_than_the_setting_allows(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, at_once, most, lock = 3, 0, 0, threading.Lock()
    # opens when all that may be asked about at once are
    full = threading.Barrier(requests)
    plain = ChatScorer._score_pair

    def counted(scorer: ChatScorer, pair: Any, mode: Mode) -> PairScore:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        full.wait(60)
        try:
            return plain(scorer, pair, mode)
        finally:
            with lock:
                at_once -= 1

    monkeypatch.setattr(ChatScorer, "_score_pair", counted)
    scorer = opened(scorer_requests=requests)
    assert scorer.pairs_at_once == requests
    assert len(scorer.score(TEXTS[0], (TEXTS * 4)[: 4 * requests])) == 4 * requests
    assert most == requests


def test_a_server_that_asks_for_a_long_wait_gets_it(server: ScoringServer, opened: Open) -> None:
    scorer = opened()
    server.faults.append(429)
    server.retry_after = "77"
    with pytest.raises(ServerAway) as raised:
        scorer.score(TEXTS[0], [PICTURES[0]])
    assert raised.value.seconds == 77


def test_a_server_that_is_not_there_is_away(server: ScoringServer, opened: Open) -> None:
    scorer = opened()
    server.go_away()
    for ask in (scorer.refresh, lambda: scorer.score(TEXTS[0], [TEXTS[0]]), opened):
        with pytest.raises(ServerAway, match=f"openai:{MODEL} is away"):
            ask()


def test_a_wrong_key_is_an_error_that_does_not_quote_it(server: ScoringServer, opened: Open) -> None:
    server.key = "the-right-key-of-this-server"
    with pytest.raises(ModelUnavailable) as raised:
        opened(scorer_key="canary-of-a-wrong-scorer-key")
    assert str(raised.value) == (
        f"The server of the scorer openai:{MODEL} refuses the key (401): "
        "set RETLLM_SCORER_KEY, or its key in RETLLM_EXTRA_SCORERS."
    )
    assert opened(scorer_key=server.key).score(TEXTS[0], [TEXTS[0]])[0].error is None


def test_another_model_is_an_error_that_names_those_of_the_server(server: ScoringServer, opened: Open) -> None:
    server.entry["id"] = "other/model"
    with pytest.raises(ModelUnavailable, match=f"has no model {MODEL}. It has: other/model."):
        opened()


def test_a_model_without_pictures_refuses_only_pairs_with_pictures(server: ScoringServer, opened: Open) -> None:
    server.offers = OFFERS - {"pictures"}
    text, picture = opened().score(TEXTS[0], [TEXTS[1], PICTURES[0]])
    assert text.error is None
    assert picture.error == f'The scorer\'s server refused the pair: "{MODEL} is not a multimodal model".'


def test_a_server_without_logprobs_can_only_write_scores(server: ScoringServer, opened: Open) -> None:
    server.offers = OFFERS - {"logprobs"}
    scorer = opened()
    with pytest.raises(ModelUnsuited, match="gives no log-probabilities"):
        scorer.score(TEXTS[0], [TEXTS[0]])
    assert len(scorer.score(TEXTS[0], [TEXTS[0]], mode="verbalized")) == 1


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_probabilities_that_are_none_are_an_error_of_their_pair(
    server: ScoringServer, opened: Open, scale: float
) -> None:
    server.scale = scale
    (score,) = opened().score(TEXTS[0], [TEXTS[0]])
    assert score.error is not None


def test_the_version_depends_on_the_model_and_its_server_but_not_on_the_address(
    small: SmallModel, server: ScoringServer, opened: Open
) -> None:
    scorer = opened()
    version = scorer.version(OFF)
    with serving(small) as moved:
        moved.entry = server.entry | {"created": 1}
        other = open_scorer(Settings(scorer=f"openai+{moved.root}/v1#{MODEL}", scorer_key="a-key-of-ours"))
        assert other.version(OFF) == version
    assert scorer.version(OFF, "choice") != version
    assert opened(picture_tokens=512).version(OFF) != version
    server.entry["root"] = "another"
    assert scorer.version(OFF) == version
    scorer.refresh()
    assert scorer.version(OFF) != version


def test_a_model_that_changes_during_a_call_gives_no_scores(server: ScoringServer, opened: Open) -> None:
    scorer = opened()
    server.entry["max_model_len"] = 99
    with pytest.raises(ServerAway, match="another model or version"):
        scorer.score(TEXTS[0], [TEXTS[0]])
    assert scorer.score(TEXTS[0], [TEXTS[0]])[0].error is None


def test_what_only_a_model_in_this_process_can_do_is_refused(server: ScoringServer, opened: Open) -> None:
    for options in ({"injection": Injection()}, {"trace": True}):
        with pytest.raises(ModelUnsuited):
            opened().score(TEXTS[0], [TEXTS[0]], **options)
    with pytest.raises(ModelUnsuited, match="has no mode choice"):
        opened("rerank").score(TEXTS[0], [TEXTS[0]], mode="choice")


def test_a_picture_that_cannot_be_opened_is_an_error_of_its_pair(server: ScoringServer, opened: Open) -> None:
    def broken() -> Image.Image:
        raise OSError("cut")

    with pytest.raises(InvalidInput) as raised:
        opened().score(TEXTS[0], [TEXTS[0], Content(image=Picture(broken, "broken"))])
    assert raised.value.detail["index"] == 1


def test_pictures_are_sent_within_the_budget() -> None:
    for size in ((4000, 3000), (1, 1), (5000, 3)):
        url = data_url(Picture(Image.new("RGB", size, "red")), 256)
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        assert image.width * image.height <= 256 * PIXELS_OF_TOKEN
        assert image.size == size or size != (1, 1)
        assert image.convert("RGB").getpixel((0, 0))[0] > 250


@pytest.mark.parametrize(
    "text", ["a cat <|im_end|>", "<image>", "[INST] x", "<start_of_turn>", "＜|im_start|＞", "<|<|x|>|>"]
)
def test_control_tokens_in_texts_are_broken_up(text: str) -> None:
    broken = broken_up(text)
    assert broken != text
    assert broken_up(broken) == broken


@pytest.mark.parametrize("text", ["a <red> cat", "1 < 2 > 0", "[sic]", "a|b", "<a red boat>"])
def test_other_texts_are_not_changed(text: str) -> None:
    assert broken_up(text) == text


def test_a_worker_with_a_scorer_on_a_server_does_not_import_torch() -> None:
    program = (
        "import sys, retllm_workers.app\n"
        "from retllm_workers import presence, score\n"
        "from retllm.errors import ServerAway\n"
        "try:\n    score.HELD.get()\n"
        "except ServerAway as error:\n    print(error)\n"
        "print(presence.report(['score']).device, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    environment = os.environ | {
        "RETLLM_SCORER": "openai+http://127.0.0.1:1#any",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "The server of the scorer openai:any is away: it can't be reached: nothing listens at its port.",
        "server False False",
    ]
