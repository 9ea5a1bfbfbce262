"""``retllm bench duplicates`` measures which changes of pictures are recognized, and what is mistaken for one."""

from __future__ import annotations

import json

import pytest
from tests.unit.stand_ins import FakeEmbedder

from retllm import embedding
from retllm.bench.duplicates import CHANGES, HASH_DISTANCES, measure_duplicates
from retllm.cli.main import main


def test_a_larger_distance_and_vectors_recognize_at_least_as_many() -> None:
    result = measure_duplicates(30, FakeEmbedder())
    assert set(result.recall) == set(CHANGES)
    for told in (*result.recall.values(), result.false):
        shares = [told.by_hash[distance] for distance in HASH_DISTANCES]
        assert shares == sorted(shares)
        assert told.with_vectors is not None
        assert told.with_vectors >= told.in_use
    assert result.recall["turned by EXIF"].in_use > 0.9
    assert result.recall["resized to a half"].in_use > 0.9
    assert result.false.in_use < 0.05


def test_the_command_prints_a_row_for_each_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedding, "load_embedder", lambda *_, **__: FakeEmbedder())
    with pytest.raises(SystemExit) as ended:
        main(["bench", "duplicates", "--scenes", "4"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in (*CHANGES, "pairs of different scenes"):
        assert name in shown
    with pytest.raises(SystemExit):
        main(["bench", "duplicates", "--scenes", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["scenes"] == 4
