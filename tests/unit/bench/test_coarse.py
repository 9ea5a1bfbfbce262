"""``retllm bench coarse`` measures searches against the exact answers, beside a bare query of the same table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retllm.bench import coarse
from retllm.bench.coarse_data import FILTERS, SHARES, Generated, kind_of
from retllm.cli.coarse_speed import show_coarse
from retllm.cli.main import main
from retllm.db.enums import ItemKind
from retllm.indexing import vector_indexes


def test_generated_vectors_are_the_same_in_every_run_and_texts_lie_apart() -> None:
    first, second = (Generated(6000, 32, seed=3) for _ in range(2))
    vectors = [np.concatenate([piece.vectors for piece in one.pieces()]) for one in (first, second)]
    assert np.array_equal(*vectors)
    assert np.allclose(np.linalg.norm(vectors[0], axis=1), 1, atol=1e-5)
    texts = np.array([kind_of(number) is ItemKind.TEXT for number in range(6000)])
    assert texts.mean() == 0.2
    means = [vectors[0][chosen].mean(axis=0) for chosen in (texts, ~texts)]
    assert np.linalg.norm(means[0] - means[1]) > 0.2


def test_a_filter_leaves_its_share_and_those_of_the_height_lie_together() -> None:
    one = Generated(20_000, 32, seed=3)
    pieces = list(one.pieces())
    vectors = np.concatenate([piece.vectors for piece in pieces])
    spread = {}
    for among in FILTERS[2:]:
        chosen = np.concatenate([among.matches(piece.columns) for piece in pieces])
        assert isinstance(among.value, int)
        share = among.value / SHARES
        assert chosen.mean() == pytest.approx(share, abs=4 * np.sqrt(share / one.size))
        mean = vectors[chosen].mean(axis=0) if chosen.any() else np.zeros(32)
        spread[among.column, among.value] = np.linalg.norm(mean - vectors.mean(axis=0))
    assert spread["height", 500] > 2 * spread["width", 500]


def test_the_exact_answers_are_those_of_all_vectors_at_once() -> None:
    one = Generated(6000, 32, seed=3)
    queries = one.queries(5)
    pieces = list(one.pieces())
    vectors = np.concatenate([piece.vectors for piece in pieces])
    for among, found in zip(FILTERS, one.nearest(queries, 50, FILTERS), strict=True):
        chosen = np.flatnonzero(np.concatenate([among.matches(piece.columns) for piece in pieces]))
        order = np.argsort(-(queries @ vectors[chosen].T), axis=1)[:, :50]
        expected = np.full((5, 50), -1)
        expected[:, : order.shape[1]] = chosen[order]
        assert found.tolist() == expected.tolist()


@pytest.mark.slow
def test_the_command_prints_all_measurements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vector_indexes, "EXACT_LIMIT", 500)
    monkeypatch.setattr(coarse, "_QUERIES", 16)
    # configured servers are not used: they may contain other work
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "coarse", "--items", "4000", "--dim", "16", "--collections", "3", "--json"])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == 2000
    assert [other["size"] for other in result["others"]] == [1000, 1000]
    assert min(other["recall_100"] for other in result["others"]) >= 0.99
    names = [among.name for among in FILTERS]
    pieces = list(Generated(2000, 16, seed=0).pieces())
    matches = {among.name: sum(int(among.matches(piece.columns).sum()) for piece in pieces) for among in FILTERS}
    assert {way: list(by_filter) for way, by_filter in result["answers"].items()} == {
        "platform": names,
        "tuned": ["all"],
        "bare": names,
        "exact": ["all"],
        "faiss": names,
        "lancedb": names,
    }
    for way, by_filter in result["answers"].items():
        for name, found in by_filter.items():
            if way in ("platform", "exact"):
                assert found["recall_10"] >= 0.99
                assert found["recall_100"] >= 0.99
            if way == "tuned":
                # a tenth came later than the index
                assert 0.85 <= found["recall_100"] < 0.95
            if way == "platform":
                assert found["fewest"] == min(100, matches[name])
            assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert set(result["build_seconds"]) == {"platform", "faiss", "lancedb"}
    assert min(result["build_seconds"].values()) > 0
    assert min(*result["insert_per_second"], *result["bytes_per_vector"], result["load_per_second"]) > 0
    assert result["indexed"]
    assert all(other["indexed"] for other in result["others"])
    assert set(result["ratios"]) == {"stage", "recall", "filtered", "bulk", "growth"}
    assert min(result["ratios"].values()) > 0
    show_coarse(result)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, "goal"))
    assert "no index" not in printed.lower()


@pytest.mark.parametrize(("built", "marked"), [({"faiss": 1.0}, True), ({"platform": 1.0, "faiss": 1.0}, False)])
def test_a_collection_that_is_too_small_for_an_index_is_marked(
    capsys: pytest.CaptureFixture[str], built: dict[str, float], marked: bool
) -> None:
    some = coarse.Answers(1.0, 1.0, 100, 1.0, 2.0, (1.0, 1.0))
    answers = {way: {"all": some} for way in ("platform", "tuned", "bare", "exact", "faiss")}
    others = [coarse.Other(2500, False, 1.0, 1.0)]
    speed = coarse.CoarseSpeed(5000, 16, others, 1.0, built, (1.0, 1.0), (1.0, 0.0), 1.0, answers).as_json()
    assert (speed["indexed"], speed["others"][0]["indexed"]) == (not marked, False)
    show_coarse(speed)
    printed = capsys.readouterr().out
    assert ("No vector index was measured: 5,000 vectors" in printed) is marked
    for way in ("platform", "tuned", "bare"):
        assert (f"{way}, no index" in printed) is marked
    assert "2,500, no index" in printed
    assert "exact, no index" not in printed
    assert "faiss, no index" not in printed
    assert ("beside the index" not in printed) is marked
