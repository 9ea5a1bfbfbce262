"""``retllm eval`` with the included models: the table, the JSON and the HTML page."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from retllm.cli import evaluate
from retllm.cli import main as entry

pytestmark = pytest.mark.slow

SMALL = ["--families", "1", "--pairs", "1", "--seed", "907"]


def run_eval(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `retllm eval ...` in this process; return its exit status, standard output and standard error."""
    with pytest.raises(SystemExit) as caught:
        entry.main(["eval", *arguments])
    out, err = capsys.readouterr()
    return int(str(caught.value.code)), out, err


def set_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No hub, no server, and an empty home."""
    for name in ("DATABASE_URL", "REDIS_URL", "RETLLM_PRESET", "RETLLM_EMBEDDER", "RETLLM_SCORER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RETLLM_HOME", str(home))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_environment(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The ablations of two queries, and the folder of the run."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ["eval", "scenes", *SMALL, "--limit", "2", "-k", "2", "--ablate", "--json", "--out", str(folder)]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        set_environment(patch, folder / "home")
        with pytest.raises(SystemExit) as caught:
            entry.main(arguments)
    assert caught.value.code == 0
    return json.loads(printed.getvalue()), folder


def test_the_ablations_of_the_scenes_have_the_documented_form(ablated) -> None:
    result, folder = ablated
    assert (result["benchmark"], result["seed"]) == ("scenes", 907)
    assert result["models"]["embedder"] == "local-dir:clip"
    t2i = {one["name"]: one for one in result["variants"] if one["section"] == "t2i"}
    assert {"all", "entropy only", "enhancement only", "neither", "adaptive", "mode verbalized", "mode choice"} < set(
        t2i
    )
    assert {f"k={k}" for k in (3, 5, 7, 9, 20)} < set(t2i)
    assert t2i["all"]["queries"] == 2
    assert t2i["k=9"]["pairs_per_query"] == 8
    assert t2i["adaptive"]["pairs_per_query"] <= 8
    assert "abstention" in t2i["all"]
    choice = next(one for one in result["variants"] if one["section"] == "choice")
    assert len(choice["parts"]) == 7
    assert json.loads((folder / "result.json").read_text("utf-8")) == result
    assert "<svg" in (folder / "result.html").read_text("utf-8")


def test_repeating_a_run_scores_nothing_again_and_gives_the_same_result(ablated, monkeypatch, capsys) -> None:
    """Even the seconds are equal, since they are stored with the scores."""
    from retllm.fine.scorer import Scorer

    result, folder = ablated
    monkeypatch.setattr(Scorer, "score", lambda *_, **__: pytest.fail("a pair was scored again"))
    arguments = ["scenes", *SMALL, "--limit", "2", "-k", "2", "--ablate", "--json", "--out", str(folder)]
    status, out, _ = run_eval(capsys, *arguments)
    assert status == 0
    again = json.loads(out)
    for one in (*result["variants"], *again["variants"]):
        one.pop("coarse_seconds")
    assert again == result


def test_the_text_output_shows_a_table_and_names_the_files(capsys, tmp_path) -> None:
    status, out, err = run_eval(capsys, "scenes", *SMALL, "--limit", "1", "-k", "2", "--direction", "i2t")
    assert status == 0
    assert "scenes, i2t, 1 queries, seed 907: Recall@1" in out
    assert "swap_attribute" in out
    folder = tmp_path / "home" / "evaluation" / "scenes-907"
    assert str(folder / "result.html") in err
    assert (folder / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["coco"], "coco needs --data"),
        (["flickr30k", "--data", "/nowhere"], "The folder /nowhere does not exist"),
        (["mmeb", "--data", "DATA", "--direction", "t2i"], "mmeb has no directions"),
        (["scenes", "--out", "/dev/null/run", *SMALL], "The folder /dev/null/run can't be created"),
        (["scenes", "--scorer", "/nowhere/model", *SMALL], "The folder /nowhere/model does not exist"),
    ],
)
def test_invalid_arguments_print_one_sentence_and_exit_with_status_2(capsys, tmp_path, arguments, sentence) -> None:
    row = {"qry_text": "a", "qry_img_path": "", "tgt_text": ["a", "b"], "tgt_img_path": ["", ""]}
    (tmp_path / "GQA.jsonl").write_text(json.dumps(row))
    status, out, err = run_eval(capsys, *(str(tmp_path) if one == "DATA" else one for one in arguments))
    assert status == 2
    assert out == ""
    assert err.strip().splitlines()[-1].startswith(f"retllm: {sentence}")


def test_an_error_is_printed_as_an_error_object_with_json(capsys) -> None:
    status, out, _ = run_eval(capsys, "urban1k", "--data", "/nowhere", "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == "benchmark_unreadable"


def test_the_preset_option_overrides_the_models_of_the_environment(capsys, monkeypatch) -> None:
    monkeypatch.setenv("RETLLM_SCORER", "/nowhere/model")
    status, _, _ = run_eval(capsys, "scenes", *SMALL, "--limit", "1", "-k", "1", "--preset", "demo")
    assert status == 0


@pytest.mark.parametrize("asked", ["openai:org/judge", "openai+http://gpu:1/v1#org/judge"])
def test_an_extra_scorer_is_evaluated_with_its_own_key_and_profile(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    extra = {"scorer": "openai+http://gpu:1/v1#org/judge", "key": "key-of-the-judge", "profile": "qwen3_vl"}
    monkeypatch.setenv("RETLLM_EXTRA_SCORERS", json.dumps([extra]))
    monkeypatch.setenv("RETLLM_SCORER_KEY", "key-of-the-main-one")
    chosen = evaluate._settings(None, None, asked, None)
    assert (chosen.scorer_name, chosen.scorer_key, chosen.profile) == (extra["scorer"], extra["key"], extra["profile"])
