"""``retllm bench fine --size`` measures models of published sizes with random weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retllm.bench.device_speed import matrix_flops, operations
from retllm.bench.fine import DIRECTIONS, WAYS, captions, pictures
from retllm.bench.rivals import CrossEncoder, forward_alone
from retllm.cli.main import main
from retllm.fine import Content, load_scorer
from retllm_tools import published_sizes
from retllm_tools.published_sizes import SIZES, save_model_of_size, scorer_of_size

SMALL_TEXT = {"hidden_size": 256, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2,
              "num_key_value_heads": 1, "vocab_size": 2100}  # fmt: skip
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 256, "depth": 3}
LAYERS = {"Qwen3VL": {"deepstack_visual_indexes": [1]}, "Qwen2_5_VL": {"fullatt_block_indexes": [1]}}


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the published sizes small, with all else as it is."""
    for name, one in SIZES.items():
        vision = one.vision | SMALL_VISION | LAYERS[one.classes]
        monkeypatch.setitem(SIZES, name, replace(one, text=one.text | SMALL_TEXT, vision=vision))


@pytest.mark.parametrize(("size", "parameters"), [("2b", 2_127_532_032), ("7b", 8_292_166_656), ("8b", 8_767_123_696)])
def test_the_sizes_have_the_parameters_of_the_published_models(size: str, parameters: int) -> None:
    """The numbers are those that the published files of weights add up to."""
    published = SIZES[size]
    config = published_sizes._config(published, published_sizes._processor(published, 560, captions(5, 0)))
    with torch.device("meta"):
        module = published_sizes._class(published, "ForConditionalGeneration")(config)
    assert sum(weight.numel() for weight in module.parameters()) == parameters


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.usefixtures("shrunk")
def test_a_model_of_random_weights_answers_its_rival_alike(size: str, tmp_path: Path) -> None:
    scorer = scorer_of_size(tmp_path, size, "cpu", 128, captions(20, 0))
    assert scorer.info.dtype == "bfloat16"
    query, pool = Content(text="a dog"), [Content(image=one) for one in pictures(2, 128, 1)]
    odds = forward_alone(scorer, query, pool)()
    assert all(map(math.isfinite, odds))
    assert len(set(odds)) == 2, "the pictures make a difference"
    assert CrossEncoder(scorer).scored(query, pool) == pytest.approx(odds, abs=0.05), "bfloat16 has 8 bits"


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.usefixtures("shrunk")
def test_a_saved_model_is_loaded_as_the_one_that_was_made(size: str, tmp_path: Path) -> None:
    save_model_of_size(tmp_path / "saved", size, "cpu", 128, captions(20, 0))
    made = scorer_of_size(tmp_path / "made", size, "cpu", 128, captions(20, 0))
    query, pool = Content(text="a dog"), [Content(image=one) for one in pictures(2, 128, 1)]
    loaded = load_scorer(str(tmp_path / "saved"), device="cpu")
    assert forward_alone(loaded, query, pool)() == pytest.approx(forward_alone(made, query, pool)(), abs=0.05)


@pytest.mark.usefixtures("shrunk")
def test_the_command_reports_shares_of_the_devices_speed(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "8b", "--picture", "64", "-k", "2", "--rounds", "1", "--device", "cpu"]
    result: dict[str, Any] = json.loads(_output([*options, "--json"], capsys))
    for direction in DIRECTIONS:
        assert set(result[direction]) == set(WAYS)
        for way in WAYS:
            expected = result[direction][way] * result["flops_per_pair"][direction] / result["matrix_flops"]
            assert result["share_of_matrix_speed"][direction][way] == pytest.approx(expected, rel=0.01, abs=1e-4)
    assert all(cost > 0 for cost in result["host_ms_per_pair"].values())
    assert "of matrix speed" in _output(options, capsys)


def _output(options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fine", *options])
    assert not caught.value.code
    return capsys.readouterr().out


def test_a_size_excludes_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "fine", "--size", "2b", "--model", "somewhere"])
    assert caught.value.code == 2
    assert "omit --model" in capsys.readouterr().err


def test_operations_are_those_of_the_products() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert operations(lambda: left @ right) == 2 * 3 * 5 * 7
    assert matrix_flops(torch.device("cpu"), torch.float32) > 1e9
