"""Several scorers: how they are configured, and the settings with which each is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retllm import redaction
from retllm.cli.main import settings_sentence
from retllm.errors import InvalidInput
from retllm.fine.opening import served_settings
from retllm.model_settings import ExtraScorer
from retllm.settings import PRESETS, Settings
from retllm.stack.local import LocalStack

SERVER = "openai+http://gpu:8000/v1#org/judge"
RERANKER = "rerank+http://gpu:8001#org/ranker"


def extras(*entries: str | dict[str, str], **values: Any) -> Settings:
    return Settings(extra_scorers=entries, **values)  # type: ignore[arg-type]  # entries are parsed


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", []),
        (f"org/one, {SERVER} ,", ["org/one", "openai:org/judge"]),
        ('["/models/one", {"scorer": "org/two", "revision": "v1"}]', ["one", "org/two"]),
        ('{"scorer": "org/two"}', ["org/two"]),
    ],
)
def test_they_are_separated_by_commas_or_json(value: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETLLM_EXTRA_SCORERS", value)
    assert Settings().scorer_names == ["mllm", *names]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["/one/mllm"], "two scorers are called mllm"),
        (["org/one", "org/one"], "two scorers are called org/one"),
        ([SERVER, SERVER.replace("gpu", "other")], "two scorers are called openai:org/judge"),
        ([{"scorer": "/models/a,b"}], "has a comma"),
        ([{"scorer": SERVER, "revision": "v1"}], "leave out its revision"),
        ([{"scorer": RERANKER, "profile": "qwen3_vl"}], "leave out its profile"),
        ([{"scorer": "org/one", "profile": "no_such"}], "no_such"),
        (["openai+http://gpu"], "name of its model"),
        ([{"scorer": "org/one", "modus": "x"}], "modus"),
        ([{"scorer": ""}], "at least 1 character"),
    ],
)
def test_a_faulty_entry_is_refused_with_the_reason(entries: list[str | dict[str, str]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        extras(*entries)


def test_what_is_neither_json_nor_a_list_of_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETLLM_EXTRA_SCORERS", '[{"scorer": ')
    with pytest.raises(ValidationError, match="neither JSON nor names separated by commas"):
        Settings()


def test_a_key_is_shown_nowhere_and_is_redacted() -> None:
    settings = extras({"scorer": SERVER, "key": "a-key-of-the-judge"})
    assert "a-key-of-the-judge" not in repr(settings)
    assert redaction.redact("it sent a-key-of-the-judge") == "it sent ***"
    with pytest.raises(ValidationError) as raised:
        extras({"scorer": SERVER, "key": "a-line\nbreak-in-a-key"})
    assert "characters that no key can have" in str(raised.value)
    assert "break-in" not in str(raised.value)
    assert "break-in" not in repr(ExtraScorer(scorer=SERVER, key="break-in-a-key"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            '[{"scorer": "x", "key": "canary-of-a-key", "modus": 1}]',
            "RETLLM_EXTRA_SCORERS (entry 1, modus): an entry has no such key; it may have scorer, revision,",
        ),
        ('[{"key": "canary-of-a-key"', "RETLLM_EXTRA_SCORERS: it is neither JSON"),
        (
            '["org/one", ["canary-of-a-key"]]',
            "RETLLM_EXTRA_SCORERS (entry 2): an entry is a name, or an object with the key scorer.",
        ),
        ('["openai+http://gpu"]', "RETLLM_EXTRA_SCORERS (entry 1): The address of a scorer ends in # and"),
    ],
)
def test_the_sentence_about_a_faulty_value_quotes_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("RETLLM_EXTRA_SCORERS", value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    sentence = settings_sentence(raised.value)
    assert message in sentence
    assert not any(word in sentence for word in ("canary", "Value error", ".."))


def test_each_scorer_is_served_with_its_own_model_revision_profile_and_key() -> None:
    settings = extras(
        {"scorer": SERVER, "key": "key-of-the-judge"},
        {"scorer": "org/two", "revision": "v2"},
        scorer="openai+http://main:8000/v1#org/main",
        scorer_key="key-of-the-main-one",
    )
    assert settings.serving(None) is settings
    assert settings.serving("openai:org/main") is settings
    judge, two = settings.serving("openai:org/judge"), settings.serving("org/two")
    assert (judge.scorer_name, judge.scorer_key, judge.scorer_revision) == (SERVER, "key-of-the-judge", None)
    assert (two.scorer_name, two.scorer_key, two.scorer_revision) == ("org/two", None, "v2")
    assert judge.remote_scorer is not None
    assert (judge.default_trigger, two.default_trigger) == ("off", "entropy")
    with pytest.raises(InvalidInput, match="The scorers are openai:org/main, openai:org/judge, org/two") as raised:
        settings.serving("org/three")
    assert raised.value.detail["field"] == "scorer"


def test_a_scorer_that_lacks_the_configured_mode_is_asked_in_one_that_it_has() -> None:
    settings = extras(RERANKER, SERVER, {"scorer": "org/two", "profile": "qwen3_vl_reranker"}, mode="choice")
    modes = {name: settings.serving(name).default_mode for name in settings.scorer_names}
    assert modes == {
        "mllm": "choice",
        "rerank:org/ranker": "true_false",
        "openai:org/judge": "choice",
        "org/two": "true_false",
    }


def test_the_modes_of_a_family_count_where_the_files_are_here() -> None:
    name = "openai:Qwen/Qwen3-VL-Reranker-2B"
    settings = extras(f"openai+http://gpu:1#{name.partition(':')[2]}", mode="choice")
    assert served_settings(settings, name).default_mode == "true_false"
    assert served_settings(settings, None).default_mode == "choice"


def test_a_preset_asks_only_its_own_scorer_in_its_own_way() -> None:
    settings = extras("org/two", preset="best")
    assert settings.default_mode == "choice"
    assert settings.serving("org/two").default_mode == "true_false"


def test_the_notice_covers_all_scorers() -> None:
    shipped = PRESETS["demo"]
    assert extras(shipped.scorer, preset="small").notice == shipped.notice
    # another folder of that name
    assert extras("/models/mllm", preset="small").notice is None


def test_the_processes_of_a_stack_get_the_same_scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = extras("org/one", {"scorer": SERVER, "key": "key-of-the-judge"}, home=tmp_path)
    with LocalStack(settings, parts={"redis"}) as stack:
        value = stack.environment()["RETLLM_EXTRA_SCORERS"]
    monkeypatch.setenv("RETLLM_EXTRA_SCORERS", value)
    assert Settings().extra_scorers == settings.extra_scorers
    assert json.loads(value)[1]["key"] == "key-of-the-judge"
