"""``retllm doctor`` and ``retllm eval`` with a scorer on a server."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.scoring_server import MODEL, OFFERS, ScoringServer, refusing_server, serving, small_model

from retllm.cli import check_remote, checks
from retllm.cli import main as entry
from retllm.fine import Content
from retllm.fine.remote import client
from retllm.fine.scores import PairScore
from retllm.settings import Settings

EVAL = ["eval", "scenes", "--families", "1", "--pairs", "0", "--seed", "907", "--limit", "2", "-k", "3", "--json"]


@pytest.fixture(scope="module")
def server() -> Iterator[ScoringServer]:
    with serving(small_model()) as running:
        yield running


def _check(server: ScoringServer, protocol: str = "openai", **settings: object) -> checks.Check:
    address = f"{protocol}+{server.root}#{MODEL}"
    return checks._guarded("scorer", lambda: checks.check_scorer(Settings(scorer=address, **settings)))


@pytest.mark.parametrize(("protocol", "api"), [("openai", "/v1"), ("rerank", "/rerank")])
def test_doctor_asks_the_server_about_known_pairs(server: ScoringServer, protocol: str, api: str) -> None:
    check = _check(server, protocol)
    assert check.message.startswith(f"{server.root}{api} serves {MODEL} (revision ")
    # the small model knows drawn scenes only, and may not tell two plain pictures apart
    assert check.state in ("ok", "warning")
    assert "red" in check.message


class _Sure:
    """A scorer with given log-odds by the text and the colour of the picture."""

    info = SimpleNamespace(revision="r", prompt_version="p")

    def __init__(self, odds: Callable[[str, str], float]) -> None:
        self._odds = odds

    def score(self, query: Content, candidates: Sequence[Content]) -> list[PairScore]:
        found = []
        for one in candidates:
            seen = "text" if one.image is None else "red" if one.image.getpixel((0, 0)) == (255, 0, 0) else "blue"
            value = self._odds("red" if "red" in str(query.text) else "blue", seen)
            found.append(PairScore(1 / (1 + math.exp(-value)), value, None, None, None, 9))
        return found


@pytest.mark.parametrize(
    ("odds", "state"),
    [
        (lambda asked, seen: 2.0 if asked == seen else -2.0, "ok"),
        (lambda asked, seen: -20.0 if asked == seen else -22.0, "ok"),
        (lambda asked, seen: 0.4 if asked == "red" else 0.0, "warning"),
        (lambda asked, seen: 0.4 if seen == "red" else 0.0, "warning"),
        (lambda asked, seen: 1e-9 if asked == seen else 0.0, "warning"),
        (lambda asked, seen: 0.0, "warning"),
    ],
    ids=["right", "sure of little", "likes red", "likes a red picture", "rounds", "flat"],
)
def test_doctor_is_content_only_if_the_server_looks_at_the_pictures(
    server: ScoringServer, monkeypatch: pytest.MonkeyPatch, odds: Callable[[str, str], float], state: str
) -> None:
    monkeypatch.setattr(check_remote, "open_scorer", lambda settings: _Sure(odds))
    assert _check(server).state == state


@pytest.mark.parametrize(
    ("missing", "state", "message"),
    [("pictures", "warning", "takes no pictures"), ("logprobs", "failed", "gives no log-probabilities")],
)
def test_doctor_says_what_the_server_lacks(server: ScoringServer, missing: str, state: str, message: str) -> None:
    server.offers = OFFERS - {missing}
    try:
        check = _check(server)
    finally:
        server.offers = OFFERS
    assert (check.state, check.advice == "") == (state, state == "failed")
    assert message in check.message


def test_doctor_says_that_the_server_is_away_or_refuses_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.1)
    with refusing_server() as root:
        settings = Settings(scorer=f"openai+{root}#m", scorer_key="canary-of-a-key")
        refused = checks._guarded("scorer", lambda: checks.check_scorer(settings))
    assert (refused.state, refused.advice) == ("failed", "Set RETLLM_SCORER_KEY, or its key in RETLLM_EXTRA_SCORERS.")
    assert "refuses the key (401)" in refused.message
    away = checks._guarded("scorer", lambda: checks.check_scorer(settings))
    assert (away.state, away.advice) == (
        "failed",
        "Start the server, or correct the port in its address (RETLLM_SCORER).",
    )
    assert away.message == (
        f"The server of the scorer openai:m is away: it can't be reached: nothing listens at its port. "
        f"Its address is {root}/v1."
    )


def test_the_report_of_the_doctor_has_no_log_lines_between_unless_they_are_asked_for(tmp_path: Path) -> None:
    env = {**os.environ, "RETLLM_HOME": str(tmp_path), "RETLLM_SCORER": "openai+http://127.0.0.1:1/v1#m"}
    env.pop("RETLLM_LOG_LEVEL", None)
    # the command, with a short time for its requests to be repeated
    program = (
        "from retllm.fine.remote import client; client._RETRY_SECONDS = 0.1; "
        "from retllm.cli.main import main; main(['doctor', '--json'])"
    )
    command = [sys.executable, "-c", program]

    def errors(**more: str) -> str:
        run = subprocess.run(command, capture_output=True, text=True, env=env | more, timeout=120, check=False)
        assert "is away" in run.stdout
        return run.stderr

    assert errors() == ""
    assert "scorer.no_answer" in errors(RETLLM_LOG_LEVEL="WARNING")


def test_doctor_says_that_the_server_limits_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.1)
    with serving(None) as limiting:
        limiting.faults.extend([429] * 100)
        found = checks._guarded(
            "scorer", lambda: checks.check_scorer(Settings(scorer=f"rerank+{limiting.root}#{MODEL}"))
        )
    assert found.message.startswith(
        f"The server of the scorer rerank:{MODEL} takes no more requests for now (429). Its address"
    )
    assert "RETLLM_SCORER_REQUESTS" in found.advice
    assert "Start the server" not in found.advice


@pytest.mark.slow
def test_eval_measures_a_scorer_on_a_server_and_skips_what_it_cannot_do(
    server: ScoringServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RETLLM_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RETLLM_TRIGGER", "off")

    def evaluate(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as caught:
            entry.main([*EVAL, *arguments])
        assert caught.value.code == 0
        return dict(json.loads(capsys.readouterr().out))

    address = f"openai+{server.root}#{MODEL}"
    remote = evaluate("--scorer", address, "--ablate", "--out", str(tmp_path / "remote"))
    local = evaluate("--out", str(tmp_path / "local"))
    assert remote["models"]["scorer"] == f"openai:{MODEL}"
    by_name = {one["name"]: one for one in remote["variants"]}
    assert by_name["all"]["fine"] == local["variants"][0]["fine"]
    assert "can't re-inject" in by_name["fixed, all"]["skipped"]
    assert server.root not in json.dumps(remote)


def test_eval_with_a_malformed_address_prints_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main([*EVAL, "--scorer", "openai+http://gpu"])
    assert caught.value.code == 2
    assert "ends in # and the name of its model" in capsys.readouterr().err
