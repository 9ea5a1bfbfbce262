"""Settings have help texts; presets and names are correct (tests/unit/test_documents.py checks the table)."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
from pydantic import ValidationError

from retllm.settings import PRESETS, Settings, public_name


def test_the_default_k_is_at_most_the_maximum_k() -> None:
    assert Settings(default_k=10, max_k=4).k == 4


@pytest.mark.parametrize(("preset", "k"), [("demo", 10), ("paper", 10), ("best", 20), ("multilingual", 20)])
def test_a_preset_has_its_own_default_k(preset: str, k: int) -> None:
    assert Settings(preset=preset).k == k
    assert Settings(preset=preset, default_k=7).k == 7


def test_a_preset_asks_its_own_scorer_in_its_own_way() -> None:
    assert Settings().default_mode == Settings(preset="paper").default_mode == "true_false"
    assert Settings(preset="best").default_mode == "choice"
    assert Settings(preset="best", mode="verbalized").default_mode == "verbalized"
    assert Settings(preset="best", scorer="org/other").default_mode == "true_false"


def test_the_embedders_of_the_presets_are_in_the_list_of_open_clip() -> None:
    """Their weights can't be loaded in a test; their names, tags and sizes are held against the installed library."""
    known = set(open_clip.list_pretrained())
    embedders = {name: preset.embedder for name, preset in PRESETS.items() if name != "demo"}
    assert {name for name, model in embedders.items() if tuple(model.split("/")) not in known} == set()
    assert open_clip.get_model_config("PE-Core-L-14-336")["vision_cfg"]["image_size"] == 336
    config = open_clip.get_model_config("ViT-SO400M-16-SigLIP2-384")
    assert config is not None
    assert config["vision_cfg"]["image_size"] == 384


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
def test_settings_with_a_demo_model_have_its_notice(values: dict[str, Any]) -> None:
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
def test_settings_without_a_demo_model_have_no_notice(values: dict[str, Any]) -> None:
    assert Settings(**values).notice is None


def test_results_of_the_demo_models_have_the_notice_under_other_settings() -> None:
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
def test_extra_embedders_are_separated_by_commas_or_a_json_list(
    value: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETLLM_EXTRA_EMBEDDERS", value)
    assert Settings().extra_embedders == names


def test_embedders_are_listed_by_public_name_with_the_main_one_first() -> None:
    settings = Settings(
        embedder="local-dir:/models/main", extra_embedders=("ViT-B-32/openai", "local-dir:/models/main")
    )
    assert list(settings.embedders.items()) == [
        ("local-dir:main", "local-dir:/models/main"),
        ("ViT-B-32/openai", "ViT-B-32/openai"),
    ]


def test_two_embedders_with_the_same_public_name_are_refused() -> None:
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
def test_an_invalid_setting_is_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError):
        Settings()


def test_the_trigger_fixed_needs_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETLLM_TRIGGER", "fixed")
    with pytest.raises(ValidationError, match="RETLLM_TRIGGER is fixed: set RETLLM_FIXED_LAYER"):
        Settings()
    monkeypatch.setenv("RETLLM_FIXED_LAYER", "0")
    assert Settings().fixed_layer == 0


def test_server_addresses_come_from_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_public_name_has_the_name_of_the_model_but_not_its_path(name: str, shown: str) -> None:
    assert public_name(name) == shown
