"""The models of a first start: real ones if they can be had, and those that the data was made with ever after."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from retllm.cli.first_models import Download, first_models
from retllm.embedding import sources as embedders
from retllm.fine import sources as scorers
from retllm.kept_preset import keep_preset, kept_preset
from retllm.settings import Settings


@pytest.fixture(autouse=True)
def _no_models_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRESET", "EMBEDDER", "SCORER"):
        monkeypatch.delenv(f"RETLLM_{name}", raising=False)


def known(monkeypatch: pytest.MonkeyPatch, *, here: bool, problem: str | None) -> None:
    """Let the weights of real models be on this machine or not, and a model hub answer or not."""
    found = SimpleNamespace(here=here)
    monkeypatch.setattr(embedders, "can_load", lambda _: found)
    monkeypatch.setattr(scorers, "can_load", lambda _: found)
    monkeypatch.setattr(scorers, "hub_problem", lambda: problem)


@pytest.mark.parametrize(
    ("here", "problem", "preset", "words"),
    [
        (True, "it is away", "small", ["which are on this machine"]),
        (False, None, "small", ["are downloaded, about 1.6 GB", "--preset demo"]),
        (False, "the hub can't be reached", "demo", ["not on this machine, and the hub can't be reached"]),
    ],
)
def test_a_first_start_takes_real_models_if_they_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool, problem: str | None, preset: str, words: list[str]
) -> None:
    known(monkeypatch, here=here, problem=problem)
    settings, why = first_models(Settings(home=tmp_path, database_url=None))
    assert settings.preset == preset
    assert "preset" in settings.model_fields_set, "the processes of the stack are given it"
    assert why is not None
    assert all(word in why for word in words)


@pytest.mark.parametrize(
    "given", [{"preset": "demo"}, {"embedder": "ViT-B-32/openai"}, {"database_url": "postgresql://here/x"}]
)
def test_what_is_configured_is_not_chosen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    known(monkeypatch, here=True, problem=None)
    settings = Settings(**{"home": tmp_path, "database_url": None} | given)  # type: ignore[arg-type]
    assert first_models(settings) == (settings, None)


def test_data_that_the_demo_may_have_embedded_stays_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, here=True, problem=None)
    (tmp_path / "postgres").mkdir()
    settings, why = first_models(Settings(home=tmp_path, database_url=None))
    assert (settings.preset, why) == ("demo", None)


def test_all_commands_use_the_kept_preset_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings(home=tmp_path).preset == "demo"
    keep_preset(tmp_path, "small")
    assert Settings(home=tmp_path).preset == "small"
    assert Settings(home=tmp_path, preset="paper").preset == "paper"
    monkeypatch.setenv("RETLLM_HOME", str(tmp_path))
    assert Settings().preset == "small"
    monkeypatch.setenv("RETLLM_PRESET", "demo")
    assert Settings().preset == "demo"
    (tmp_path / "preset").write_text("unknown")
    assert kept_preset(tmp_path) is None


def test_the_download_is_told_for_each_further_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--org--clip" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "old").write_bytes(b"x" * 1000)
    told: list[str] = []
    download = Download("small", told.append)
    for megabytes in (0, 50, 150, 160, 400):
        with (blobs / "new.incomplete").open("wb") as file:
            file.truncate(megabytes * 1_000_000)
        download.look()
    assert told == ["Downloaded 0.1 of about 1.6 GB of models", "Downloaded 0.4 of about 1.6 GB of models"]
