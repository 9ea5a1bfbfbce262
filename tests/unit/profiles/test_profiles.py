"""Profiles: which model has which one, and the mistakes in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.documents import DOCS
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from retllm.cli.main import settings_sentence
from retllm.profiles import (
    STANDARD,
    BadProfile,
    choose_profile,
    known_profiles,
    load_profile,
    names_of,
    parse_profile,
    shipped_profiles,
)
from retllm.settings import Settings

RERANKER = "qwen3_vl_reranker"


def test_every_shipped_profile_names_its_source_and_types_of_transformers() -> None:
    for profile in shipped_profiles().values():
        assert profile.source.startswith("https://")
        assert set(profile.match.model_types) <= set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
        assert all(pattern == pattern.lower() for pattern in profile.match.names)


@pytest.mark.parametrize(
    ("model_type", "name", "profile"),
    [
        ("qwen2_vl", "Qwen2-VL-7B-Instruct", "qwen2_vl"),
        ("qwen2_5_vl", "anything", "qwen2_5_vl"),
        ("qwen3_vl", "Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("qwen3_vl_moe", "Qwen3-VL-30B-A3B-Instruct", "qwen3_vl"),
        ("qwen3_vl", "Qwen3-VL-Reranker-2B", RERANKER),
        ("qwen3_vl", "Qwen3-VL-Reranker-8B", RERANKER),
        ("qwen3_5", "Qwen3.5-9B", "qwen3_5"),
        ("smolvlm", "SmolVLM-500M-Instruct", "smolvlm"),
        ("idefics3", "Idefics3-8B-Llama3", "smolvlm"),
        ("internvl", "InternVL3-8B-hf", "internvl"),
        ("llava_onevision", "llava-onevision-qwen2-7b-ov-hf", "llava_onevision"),
        ("gemma3", "gemma-3-4b-it", "gemma3"),
        ("gemma4", "gemma-4-E4B-it", "gemma4"),
        ("glm4v", "GLM-4.1V-9B-Thinking", "glm4v"),
        ("mistral3", "Mistral-Small-3.1-24B-Instruct-2503", "mistral3"),
        ("paligemma", "paligemma2-3b-mix-224", "paligemma"),
        # a name alone does not make another family a reranker
        ("qwen2_5_vl", "Qwen3-VL-Reranker-2B", "qwen2_5_vl"),
        ("fuyu", "fuyu-8b", "standard"),
    ],
)
def test_a_model_has_the_profile_of_its_type_and_a_reranker_its_own(model_type: str, name: str, profile: str) -> None:
    assert choose_profile(None, model_type, names_of(f"org/{name}")).name == profile


def test_a_reranker_is_also_known_by_its_chat_template_and_its_folder() -> None:
    template = "system: Judge whether the Document meets the requirements based on the Query and"
    assert choose_profile(None, "qwen3_vl", ["mine"], template).name == RERANKER
    folder = "/hub/models--Qwen--Qwen3-VL-Reranker-2B/snapshots/0123"
    assert choose_profile(None, "qwen3_vl", names_of(folder)).name == RERANKER
    assert choose_profile(None, "qwen3_vl", names_of("/models/qwen3-vl-rerankers/mine")).name == "qwen3_vl"


def test_without_a_type_the_name_decides() -> None:
    assert choose_profile(None, None, ["Qwen3-VL-Reranker-8B"]).name == RERANKER
    assert choose_profile(None, None, ["Qwen3-VL-8B-Instruct"]).name == "qwen3_vl"
    assert choose_profile(None, None, ["tests"]) == STANDARD


def test_a_chosen_profile_comes_before_that_of_the_family(tmp_path: Path) -> None:
    assert choose_profile(RERANKER, "gemma3", ["gemma-3-4b-it"]).name == RERANKER
    mine = tmp_path / "mine.toml"
    mine.write_text('system = "Be brief."\nk = 30\n[ask]\ntrue_false = "Answer True or False."\n', encoding="utf-8")
    profile = choose_profile(str(mine), "qwen3_vl", ["Qwen3-VL-Reranker-8B"])
    assert (profile.name, profile.system, profile.k) == ("mine", "Be brief.", 30)
    assert profile.ask == {"true_false": "Answer True or False."}


PAIR = '[pairs]\n"text->image" = '


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system = ", "is not valid TOML: Invalid value (at end of document). Correct that place"),
        ('sytem = "x"', 'it has no key "sytem": remove it, or correct its spelling'),
        ("[match]\ntype = 1", 'it has no key "match.type": remove it'),
        ("system = 3", 'correct the key "system": it is a text, in quotes'),
        ('score = "both"', """correct the key "score": Input should be 'vocabulary' or 'labels'"""),
        ("picture_tokens = 3", 'correct the key "picture_tokens": Input should be greater than or equal to 16'),
        ('modes = ["choice"]', 'correct the key "modes": add true_false'),
        ('[labels.true_false]\npositive = ["yes"]', 'the key "labels.true_false.negative" is missing: add it'),
        (
            '[labels.true_false]\npositive = ["a"]\nnegative = ["a"]',
            "'a' and 'a' are spellings of both answers: remove one",
        ),
        ('[labels.yes_no]\npositive = ["a"]\nnegative = ["b"]', "labels.yes_no"),
        (
            '[labels.true_false]\npositive = ["a"]\nnegative = "b"',
            'labels.true_false.negative": it is a list, in brackets',
        ),
        ('labels = ["a"]', 'correct the key "labels": it is a table'),
        ('[labels]\ntrue_false = "a"', 'correct the key "labels.true_false": it is a table'),
        ('[ask]\nchoise = "A or B"', "ask.choise"),
        ('[pairs]\n"text->film" = ["x"]', 'pairs has no "text->film": use one of image->image, '),
        (PAIR + '["{query}"]', 'pairs."text->image" must have each of {query}, @candidate.image once'),
        (PAIR + '["@candidate.image", "@query.image", "{query}"]', "once, and no other of them"),
        (PAIR + '["@candidate.image", "{query} {query} {ask}"]', "once, and no other of them"),
        (PAIR + '["@candidate.image", "{query} {quest}"]', "unknown placeholder {quest}"),
        (PAIR + '["x @candidate.image", "{query}"]', "unknown placeholder @candidate.image: a picture is a part of"),
        (PAIR + '["@candidate.image", "{query} {ask} {instruction}"]', "has {instruction}: set instruction"),
        (PAIR + '["@candidate.image", "{query}"]', 'lacks {ask}: add it, or set modes to ["true_false"]'),
        (
            '[pairs]\n"image->image" = ["@candidate.image", "@query.image", "{ask}"]',
            "the picture of the query before that of the candidate",
        ),
        ('name = "x"', 'remove the key "name"'),
    ],
)
def test_a_mistake_names_the_file_the_key_and_what_to_do(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadProfile) as caught:
        load_profile(str(path))
    assert str(caught.value).startswith(f"The profile {path}")
    assert message in str(caught.value)


def test_a_bad_profile_is_refused_with_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So every process refuses to start, and no search fails of it."""
    for value, message in (
        (
            str(tmp_path / "none.toml"),
            f"The profile {tmp_path / 'none.toml'} can't be read (No such file or directory)",
        ),
        (str(tmp_path), "name a file that ends in .toml, or one of gemma3, gemma4,"),
        ("qwen3-vl", "There is no profile qwen3-vl"),
    ):
        monkeypatch.setenv("RETLLM_PROFILE", value)
        with pytest.raises(ValidationError) as caught:
            Settings()
        sentence = settings_sentence(caught.value)
        assert "RETLLM_PROFILE" in sentence
        assert message in sentence
        assert sentence.count(value) == 1
    monkeypatch.setenv("RETLLM_PROFILE", RERANKER)
    assert Settings().profile == RERANKER


def test_every_name_that_the_documentation_lists_can_be_chosen() -> None:
    """Also that of the profile of a model of no known family, which `retllm doctor` names."""
    rows = (DOCS / "how-to" / "profiles.md").read_text(encoding="utf-8").partition("| profile |")[2]
    names = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows.partition("\n\n")[0].splitlines()[2:]))
    assert set(names) == set(known_profiles())
    for name in names:
        assert Settings(profile=name).profile == name
    assert load_profile("standard") is choose_profile(None, None, ["org/unknown"])


def test_a_reranker_on_a_server_takes_no_profile() -> None:
    with pytest.raises(ValidationError, match="its own question: unset RETLLM_PROFILE"):
        Settings(scorer="rerank+http://gpu:8000#m", profile=RERANKER)
    assert Settings(scorer="openai+http://gpu:8000#m", profile=RERANKER).profile == RERANKER


def test_an_empty_profile_is_the_standard_one() -> None:
    assert parse_profile("", "standard", "f") == STANDARD
