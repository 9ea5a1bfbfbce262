"""``retllm bench fine --concurrent`` measures searches through real processes beside their scorer alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from retllm.bench.concurrent import ConcurrentSpeed
from retllm.cli.main import main
from retllm.fine import Content, Scorer


def test_the_ratios_are_to_the_scorer_alone() -> None:
    speed = ConcurrentSpeed(
        20,
        10,
        platform=8.0,
        one_by_one=2.5,
        scorer=10.0,
        median_seconds=12.3456,
        slowest_seconds=25.0,
        processor_ms={"web": 1.0, "score": 90.04, "scorer alone": 85.0},
    )
    assert speed.as_json() == {
        "searches": 20,
        "k": 10,
        "median_seconds": 12.346,
        "slowest_seconds": 25.0,
        "processor_ms": {"score": 90.0, "scorer alone": 85.0, "web": 1.0},
        "rates": {
            "scorer": {"pairs_per_second": 10.0, "of_scorer": 1.0},
            "platform": {"pairs_per_second": 8.0, "of_scorer": 0.8},
            "one_by_one": {"pairs_per_second": 2.5, "of_scorer": 0.25},
        },
    }


@pytest.mark.slow
def test_the_scorer_alone_gets_the_pairs_of_the_searches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[tuple[Content, Content]]] = []
    plain = Scorer.score_pairs

    def kept(scorer: Scorer, pairs: Sequence[tuple[Content, Content]], *options: Any, **more: Any) -> Any:
        calls.append(list(pairs))
        return plain(scorer, pairs, *options, **more)

    monkeypatch.setattr(Scorer, "score_pairs", kept)
    # configured servers are not used: they may contain other work
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    size = ["--width", "128", "--layers", "4", "--picture", "56"]
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fine", "--concurrent", "3", "-k", "2", *size, "--json"])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["searches"], result["k"]) == (3, 2)
    assert all(rate["pairs_per_second"] > 0 for rate in result["rates"].values())
    assert 0 < result["median_seconds"] <= result["slowest_seconds"]
    spent = result["processor_ms"]
    assert {"web", "dispatch", "embed", "score", "postgres", "client"} <= spent.keys()
    assert spent["score"] > 0
    assert spent["scorer alone"] > 0
    # one search to warm up, one alone, three at once
    before, measured = calls
    assert (len(before), len(measured)) == (4, 6)
    assert len({query.text for query, _ in measured}) == 3, "each search has its own question"
