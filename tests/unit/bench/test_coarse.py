"""``retllm bench coarse`` measures searches against the exact answers, beside a bare query of the same table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from retllm.bench import coarse
from retllm.bench.coarse_data import Generated, kind_of
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


@pytest.mark.parametrize("kinds", coarse.FILTERS.values(), ids=coarse.FILTERS)
def test_the_exact_answers_are_those_of_all_vectors_at_once(kinds: tuple[ItemKind, ...]) -> None:
    one = Generated(6000, 32, seed=3)
    queries = one.queries(5)
    vectors = np.concatenate([piece.vectors for piece in one.pieces()])
    chosen = [number for number in range(6000) if kind_of(number) in kinds]
    order = np.argsort(-(queries @ vectors[chosen].T), axis=1)[:, :50]
    expected = [[one.keys[chosen[at]] for at in row] for row in order]
    found = one.nearest(queries, 50, kinds)
    assert [{*row} for row in found] == [{*row} for row in expected]


@pytest.mark.slow
def test_the_command_prints_all_measurements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vector_indexes, "EXACT_LIMIT", 500)
    monkeypatch.setattr(coarse, "_QUERIES", 16)
    # configured servers are not used: they may contain other work
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "coarse", "--items", "2000", "--dim", "16", "--collections", "2", "--json"])
    assert not caught.value.code
    result = json.loads(capsys.readouterr().out)
    assert result["sizes"] == [1000, 1000]
    assert set(result["answers"]) == {"platform", "bare", "exact", "faiss", "lancedb"}
    for way, by_filter in result["answers"].items():
        assert set(by_filter) == {"all", "texts", "captioned"}
        for name, found in by_filter.items():
            if way in ("platform", "exact"):
                assert found["recall_10"] >= 0.99
                assert found["recall_100"] >= 0.99
                assert found["fewest"] == (5 if name == "captioned" else 100)
            assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert min(result["others"]) >= 0.99
    assert set(result["build_seconds"]) == {"platform", "faiss", "lancedb"}
    assert min(result["build_seconds"].values()) > 0
    assert min(*result["insert_per_second"], *result["bytes_per_vector"], result["load_per_second"]) > 0
