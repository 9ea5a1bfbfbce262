"""Settings have help texts; presets and names are correct (tests/unit/test_documents.py checks the table)."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from retllm.settings import PRESETS, Settings, public_name


def test_a_search_that_names_no_number_of_candidates_takes_no_more_than_any_may() -> None:
    assert Settings().k == Settings().default_k
    assert Settings(default_k=10, max_k=4).k == 4


def test_every_setting_has_a_help_text() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_preset_names_both_models_and_either_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETLLM_PRESET", "paper")
    settings = Settings()
    assert (settings.embedder_name, settings.scorer_name) == (PRESETS["paper"].embedder, PRESETS["paper"].scorer)
    monkeypatch.setenv("RETLLM_SCORER", "org/other")
    assert (Settings().embedder_name, Settings().scorer_name) == (PRESETS["paper"].embedder, "org/other")


SHIPPED = PRESETS["demo"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"scorer": "org/other"},
        {"embedder": "ViT-B-32/openai"},
        {"preset": "paper", "scorer": SHIPPED.scorer},
        {"preset": "paper", "extra_embedders": (SHIPPED.embedder,)},
    ],
)
def test_whoever_uses_a_model_of_the_demo_is_told_what_it_knows(values: dict[str, Any]) -> None:
    assert SHIPPED.notice
    assert "\n" not in SHIPPED.notice
    assert Settings(**values).notice == SHIPPED.notice


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "small"},
        {"preset": "paper"},
        {"embedder": "ViT-B-32/openai", "scorer": "org/other"},
        # other folders with the same names
        {"embedder": "local-dir:/models/clip", "scorer": "/models/mllm"},
    ],
)
def test_other_models_need_no_such_word(values: dict[str, Any]) -> None:
    assert Settings(**values).notice is None


def test_results_of_the_demo_are_told_as_such_when_other_models_are_in_force() -> None:
    names = (public_name(SHIPPED.embedder), public_name(SHIPPED.scorer))
    assert Settings(preset="small").notice_on(names) == SHIPPED.notice
    assert Settings(preset="demo").notice_on(("ViT-B-32/openai", "org/other")) is None
    assert Settings(embedder="local-dir:/models/clip", scorer="/models/mllm").notice_on(names) is None


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        ("hf-hub:org/one", ("hf-hub:org/one",)),
        ("hf-hub:org/one, local-dir:/models/two ,", ("hf-hub:org/one", "local-dir:/models/two")),
        ('["local-dir:/models/one, two", "ViT-B-32/openai"]', ("local-dir:/models/one, two", "ViT-B-32/openai")),
    ],
)
def test_more_embedders_are_named_between_commas_or_as_a_json_list(
    value: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETLLM_EXTRA_EMBEDDERS", value)
    assert Settings().extra_embedders == names


def test_the_embedders_in_force_go_by_their_public_names_the_main_one_first() -> None:
    settings = Settings(
        embedder="local-dir:/models/main", extra_embedders=("ViT-B-32/openai", "local-dir:/models/main")
    )
    assert list(settings.embedders.items()) == [
        ("local-dir:main", "local-dir:/models/main"),
        ("ViT-B-32/openai", "ViT-B-32/openai"),
    ]


def test_two_embedders_that_results_could_not_tell_apart_are_refused() -> None:
    with pytest.raises(ValidationError, match="two embedders are called local-dir:clip"):
        Settings(embedder="local-dir:/one/clip", extra_embedders=("local-dir:/two/clip",))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RETLLM_PRESET", "huge"),
        ("RETLLM_PORT", "70000"),
        ("RETLLM_ALPHA", "1.5"),
        ("RETLLM_MAX_K", "zero"),
        ("RETLLM_EXTRA_EMBEDDERS", "[1, 2"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError):
        Settings()


def test_the_servers_addresses_come_from_their_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/x")
    monkeypatch.setenv("REDIS_URL", "redis://queue/1")
    assert (Settings().database_url, Settings().redis_url) == ("postgresql://db/x", "redis://queue/1")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("local-dir:/opt/models/clip", "local-dir:clip"),
        ("/opt/models/mllm", "mllm"),
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("hf-hub:org/repo", "hf-hub:org/repo"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_results_keep_a_models_name_but_not_where_it_lay(name: str, shown: str) -> None:
    assert public_name(name) == shown
