"""``retllm doctor --scorer`` warns of scores that are of no use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from retllm.cli import checks
from retllm.cli import main as entry
from retllm.cli.check_answers import inspect_answers, known_scenes
from retllm.cli.check_models import check_answers
from retllm.demo.claims import caption
from retllm.fine import Content, PairScore
from retllm.settings import PRESETS, Settings

CAPTIONS = [caption(scene) for scene in known_scenes()]


class Told:
    """A scorer that gives each pair what ``answer`` gives of its number and of whether it is right."""

    def __init__(self, answer: Callable[[int, bool], tuple[float, float | None]]) -> None:
        self._answer = answer

    def score_pairs(self, pairs: list[tuple[Content, Content]], _injection: object, *, mode: str) -> list[PairScore]:
        assert mode == "true_false"
        assert [query.text for query, _ in pairs] == [*CAPTIONS, *CAPTIONS[1:], CAPTIONS[0]]
        pictures = [candidate.picture for _, candidate in pairs]
        assert pictures[:6] == pictures[6:]
        found = [self._answer(place, place < 6) for place in range(len(pairs))]
        return [PairScore(p, math.log(p / (1 - p)), 0.1, None, None, 9, mass=mass) for p, mass in found]

    def says(self, query: Content, candidate: Content) -> str:
        assert (query.text, candidate.text) == (CAPTIONS[0], None)
        return "yes"


def warnings(answer: Callable[[int, bool], tuple[float, float | None]]) -> list[str]:
    found = inspect_answers(Told(answer), "true_false")  # type: ignore[arg-type]  # a part of a scorer
    assert all(state == "warning" and "RETLLM_PROFILE" in advice for state, _, advice in found if state != "ok")
    return [message for state, message, _ in found if state != "ok"]


def test_the_known_pairs_are_known() -> None:
    assert len(set(CAPTIONS)) == len(CAPTIONS) == 6


def test_useful_scores_have_no_warning() -> None:
    assert warnings(lambda _, right: (0.9 if right else 0.1, 0.98)) == []
    # a model on a server may not tell the probabilities of the labels
    assert warnings(lambda _, right: (0.9 if right else 0.1, None)) == []


def test_flat_scores_are_told() -> None:
    (flat,) = warnings(lambda place, right: (0.501 + 0.001 * right + 0.0001 * place, 0.98))
    assert flat == "The scores are flat: all 12 of known pairs, right or wrong, are from 0.5016 to 0.5025."
    assert "flat" in warnings(lambda _, right: (2e-4 if right else 1e-5, 0.98))[0]


def test_labels_that_the_model_does_not_say_are_told() -> None:
    (beside,) = warnings(lambda place, right: (0.03 if right else 0.01, 0.04 if place else 0.9))
    assert beside == (
        "The labels are not what the model wants to say: it gives both together a probability of 0.0400 (median of 12 "
        'known pairs). Its own answer begins with "yes".'
    )


def test_right_and_wrong_that_are_mixed_up_are_told() -> None:
    (mixed,) = warnings(lambda place, _: (0.1 + 0.15 * (place % 6), 0.98))
    assert mixed == (
        "Right and wrong are not told apart: the right one of two known pairs has the higher score in 15 of 36 "
        "comparisons."
    )
    assert "in 0 of 36" in warnings(lambda _, right: (0.1 if right else 0.9, 0.98))[0]


def test_scores_on_one_side_of_even_odds_are_told_if_nothing_else_is_wrong() -> None:
    (low,) = warnings(lambda _, right: (0.42 if right else 0.01, 0.98))
    assert low == (
        "Right and wrong are told apart, but both are below even odds (0.4200 and 0.0100, medians). The order of "
        "results is right, but a score is no probability. What is no good match is told as soon as a collection has 50 "
        "scores that part into two clusters."
    )
    (high,) = warnings(lambda _, right: (0.99 if right else 0.7, 0.98))
    assert "both are above even odds (0.9900 and 0.7000, medians)" in high
    assert warnings(lambda _, right: (0.6 if right else 0.4, 0.98)) == []


def test_everything_wrong_is_told_at_once() -> None:
    assert len(warnings(lambda _, __: (0.5, 0.001))) == 3


def test_the_shipped_model_answers_and_one_that_is_asked_wrongly_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETLLM_HOME", str(tmp_path))
    monkeypatch.setattr("retllm.cli.doctor.run_checks", lambda settings: [checks.check_scorer(settings)])

    def doctor() -> list[dict[str, str]]:
        with pytest.raises(SystemExit) as caught:
            entry.main(["doctor", "--scorer", "--json"])
        assert caught.value.code == 0
        return list(json.loads(capsys.readouterr().out)["checks"])

    scorer, answers = doctor()
    assert "Its profile is qwen3_vl." in scorer["message"]
    assert (answers["name"], answers["state"]) == ("answers", "ok")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[labels.true_false]\npositive = ["A"]\nnegative = ["B"]\n', encoding="utf-8")
    monkeypatch.setenv("RETLLM_PROFILE", str(wrong))
    scorer, *found = doctor()
    assert "Its profile is wrong." in scorer["message"]
    assert {one["state"] for one in found} == {"warning"}
    (beside,) = (one["message"] for one in found if "labels are not what the model wants to say" in one["message"])
    assert beside.endswith('Its own answer begins with "True".')


def test_a_mode_that_the_profile_lacks_fails_before_any_search() -> None:
    settings = Settings(scorer=PRESETS["demo"].scorer, profile="qwen3_vl_reranker", mode="verbalized")
    found = checks.check_scorer(settings)
    assert (found.state, found.advice) == ("failed", "Set RETLLM_MODE to true_false.")
    assert "Its profile is qwen3_vl_reranker and has the mode true_false only." in found.message


def test_a_scorer_that_cannot_be_loaded_fails(tmp_path: Path) -> None:
    settings = Settings.model_validate({"scorer": str(tmp_path), "extra_scorers": [str(tmp_path / "other")]})
    found, other = check_answers(settings)
    assert found.state == "failed"
    assert "has no config.json" in found.message
    assert (other.name, other.state) == ("answers 2", "failed")


def test_answers_of_several_tokens_fail_before_the_model_is_asked(tmp_path: Path) -> None:
    several = tmp_path / "several.toml"
    several.write_text('[labels.choice]\npositive = ["certainly so"]\nnegative = ["not so"]\n', encoding="utf-8")
    found = checks.run_checks(Settings(home=tmp_path / "home", profile=str(several), device="cpu"))
    (scorer,) = (check for check in found if check.name == "scorer")
    assert scorer.state == "failed"
    assert 'The answer "certainly so" is not a single token of ' in scorer.message
    assert scorer.advice == "Set another answer in labels.choice of the profile several (RETLLM_PROFILE)."
