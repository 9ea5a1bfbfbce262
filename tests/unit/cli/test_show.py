"""The output of the command line for a search."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from retllm.cli import jobs, search, show, upload
from retllm.db.enums import JobState
from retllm.history.same_errors import MAX_ERRORS


def _row(**columns: Any) -> dict[str, Any]:
    plain = {
        "rank": 1,
        "coarse_rank": 2,
        "score": 0.9,
        "fused": None,
        "entropy": 0.1,
        "similarity": 0.3,
        "decided_by": "score",
        "name": "a.png",
        "error": None,
        "text": "a robin",
    }
    return plain | columns


def _search(**fields: Any) -> dict[str, Any]:
    plain = {"provisional": False, "fusion_weight": 0.0, "no_match": False, "sources": [], "candidates": [_row()]}
    return plain | {"job": {"state": "running"}} | fields


@pytest.mark.parametrize("state", list(JobState))
def test_an_order_that_stays_incomplete_is_not_called_provisional(
    capsys: pytest.CaptureFixture[str], state: JobState
) -> None:
    show.candidates(_search(provisional=True, job={"state": str(state)}))
    title = capsys.readouterr().out.splitlines()[0].strip()
    runs = state in (JobState.QUEUED, JobState.RUNNING)
    assert title == ("Provisional order" if runs else "Unfinished order")


def test_a_result_is_printed_as_a_table_of_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    failed = _row(rank=2, score=None, entropy=None, decided_by=None, error="no number", text=None)
    show.candidates(_search(candidates=[_row(), failed]))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "coarse", "score", "entropy", "similarity", "decided", "by", "item"]
    assert first.split()[:6] == ["1", "2", "0.9000", "0.1000", "0.3000", "score"]
    assert "no number" in second


def test_an_error_that_several_candidates_have_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    same, other = "The server refuses the picture (400).", "no number"
    rows = [_row(rank=rank, score=None, error=error) for rank, error in enumerate((same, other, same, same), 1)]
    show.candidates(_search(candidates=[*rows, _row(rank=5)]))
    told = capsys.readouterr().out
    assert (told.count(same), told.count(other)) == (1, 1)
    assert f"3 candidates were not scored: {same}" in told


def test_candidates_of_one_name_are_printed_with_their_archives(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        _row(name="1.png", archive="one.zip", remark="padded"),
        _row(name="1.png", archive="two.zip"),
        _row(name="1.png", archive=None),
        _row(name="2.png", archive="two.zip"),
    ]
    show.candidates(_search(candidates=rows))
    found = re.findall(r"\d[.]png(?: in \w+[.]zip)?", capsys.readouterr().out)
    assert found == ["1.png in one.zip", "1.png in two.zip", "1.png", "2.png", "1.png in one.zip"]


@pytest.mark.parametrize(
    ("state", "filter", "told"),
    [
        (JobState.SUCCEEDED, None, "No results: no item of the requested kinds is indexed."),
        (JobState.SUCCEEDED, "a = 1", "No results: no item of the requested kinds that matches the filter is indexed."),
        (JobState.CANCELLED, None, "The job ended before any candidate was found."),
        (JobState.RUNNING, None, "Candidates appear here as soon as the coarse stage finds them."),
    ],
)
def test_a_search_without_candidates_says_why_instead_of_the_head_of_a_table(
    capsys: pytest.CaptureFixture[str], state: JobState, filter: str | None, told: str
) -> None:
    show.candidates(_search(candidates=[], filter=filter, provisional=True, job={"state": str(state)}))
    assert capsys.readouterr().out.splitlines() == [told]


def test_a_long_text_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    show.candidates(_search(candidates=[_row(text="a robin on a\nwall " * 1_000)]))
    _, *told = capsys.readouterr().out.splitlines()
    assert len(told) <= 3
    assert "a robin on a wall" in told[0]
    assert told[-1].rstrip().endswith(" …")


def test_a_remark_on_a_candidate_is_printed_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    remark = "The picture was padded to 300 × 2 pixels for the model."
    show.candidates(_search(candidates=[_row(remark=remark), _row(rank=2, remark=None)]))
    assert capsys.readouterr().out.splitlines()[3:] == [f"a.png: {remark}"]


def test_the_fused_score_is_shown_if_fusion_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    show.candidates(_search(fusion_weight=0.5, candidates=[_row(fused=2.5)]))
    head, first = capsys.readouterr().out.splitlines()
    assert head.split()[3] == "fused"
    assert first.split()[3] == "2.5000"


@pytest.mark.parametrize(("no_match", "shown"), [(True, True), (False, False), (None, False)])
def test_the_output_states_that_there_is_no_good_match(
    capsys: pytest.CaptureFixture[str], no_match: bool | None, shown: bool
) -> None:
    show.candidates(_search(no_match=no_match))
    assert ("No good match" in capsys.readouterr().out) is shown


@pytest.mark.parametrize(
    ("scores", "provisional", "shown"),
    [([None, None], False, True), ([None, 0.5], False, False), ([None, None], True, False), ([], False, False)],
)
def test_the_output_states_that_no_candidate_was_judged(
    capsys: pytest.CaptureFixture[str], scores: list[float | None], provisional: bool, shown: bool
) -> None:
    show.candidates(_search(provisional=provisional, candidates=[_row(score=score) for score in scores]))
    assert ("Not judged" in capsys.readouterr().out) is shown


def test_several_sources_are_named_with_the_reason_for_a_missing_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = {"name": "local-dir:clip", "found": 10, "unused": None}
    show.candidates(_search(sources=[main]))
    assert "local-dir:clip" not in capsys.readouterr().out
    late = {"name": "local-dir:late", "found": None, "unused": "The collection is not indexed with it yet."}
    show.candidates(_search(sources=[main, late, {"name": "captions", "found": 0, "unused": None}]))
    out = capsys.readouterr().out
    assert "Candidates from local-dir:clip, captions." in out
    assert "Without local-dir:late: The collection is not indexed with it yet." in out


@pytest.mark.parametrize("notice", ["The models know drawings only.", None])
def test_the_notice_about_the_models_is_one_line_on_standard_error(
    capsys: pytest.CaptureFixture[str], notice: str | None
) -> None:
    show.candidates(_search(notice=notice))
    output = capsys.readouterr()
    assert output.err.splitlines() == ([notice] if notice else [])
    assert len(output.out.splitlines()) == 2


class _Api:
    """Records submitted requests."""

    def __init__(self, notice: str | None = None) -> None:
        self.sent: dict[str, Any] = {}
        self.notice = notice

    def collection(self, name: str) -> dict[str, Any]:
        return {"id": name, "name": name, "notice": self.notice}

    def call(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        return {"outcomes": [{"name": "a.txt", "status": "added"}]}

    def submit(self, path: str, **sent: Any) -> dict[str, Any]:
        self.sent = sent["json"]
        return {"id": "j"}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ([], {}),
        (["--mode", "choice", "--adaptive"], {"mode": "choice", "adaptive": True}),
        (["--no-adaptive", "--fusion-weight", "0"], {"adaptive": False, "fusion_weight": 0.0}),
        (["--trace"], {"trace": True}),
        (["--trigger", "fixed", "--fixed-layer", "3"], {"injection": {"trigger": "fixed", "fixed_layer": 3}}),
        (["--captions"], {"coarse": {"captions": True}}),
        (["--no-captions", "--embedder", "hf-hub:o/r"], {"coarse": {"captions": False, "embedders": ["hf-hub:o/r"]}}),
    ],
)
def test_search_options_are_sent_only_if_they_are_given(
    monkeypatch: pytest.MonkeyPatch, options: list[str], sent: dict[str, Any]
) -> None:
    api = _Api()
    monkeypatch.setattr(search, "connect", lambda: api)
    done = CliRunner().invoke(search.search, ["papers", "a robin", *options])
    assert done.exit_code == 0, done.output
    assert api.sent == {"text": "a robin", "injection": {}, **sent}


@pytest.mark.parametrize("notice", ["The models know drawings only.", None])
@pytest.mark.parametrize("command", ["search", "upload"])
def test_upload_and_search_print_the_notice_about_the_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, notice: str | None
) -> None:
    module, results = (search, upload)[command == "upload"], []
    monkeypatch.setattr(module, "connect", lambda: _Api(notice))
    monkeypatch.setattr(
        upload, "upload_files", lambda *_, **__: upload.Uploaded([], [{"state": "succeeded", "files": {"parts": {}}}])
    )
    file = tmp_path / "a.txt"
    file.write_text("a robin")
    arguments = ["papers", "a robin"] if command == "search" else ["papers", str(file), "--no-index"]
    for options in ([], ["--json"]):
        done = CliRunner().invoke(getattr(module, command), [*arguments, *options])
        assert done.exit_code == 0, done.output
        results.append(done)
    assert [line for line in results[0].stderr.splitlines() if "drawings" in line] == ([notice] if notice else [])
    assert json.loads(results[1].stdout)["notice"] == notice


class _NothingToDo:
    """A client whose job succeeded without a unit."""

    def watch(self, job_id: str, on_change: Any) -> dict[str, Any]:
        job: dict[str, Any] = {
            "id": job_id,
            "kind": "index",
            "state": "succeeded",
            "stages": [],
            "errors": [],
            "error": None,
        }
        on_change(job)
        return job


def test_the_progress_of_a_job_without_units_ends_with_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    show.follow(_NothingToDo(), "1", quiet=False)  # type: ignore[arg-type]  # only `watch` is used
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.split()[0] == "succeeded"
    assert "?" not in last


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "retry", "delete"])
def test_what_is_not_the_id_of_a_job_is_refused_without_a_request(command: str) -> None:
    refused = CliRunner().invoke(jobs.jobs, [command, "x"])
    assert refused.exit_code == 2
    assert "'x' is not a valid UUID" in refused.output


class _Waiting:
    """An API whose job waits for a server at first."""

    def watch(self, job_id: str, shown: Any) -> dict[str, Any]:
        job = {"kind": "search", "state": "running", "stages": [], "errors": [], "progress": 0.0}
        until = "2026-01-02T04:04:05+01:00"
        waits = {"stage": "fine", "state": "ready", "attempt": 0, "waits": True, "waits_until": until}
        waits["error"] = "The server of the scorer openai:m is away."
        for errors in ([], [waits, waits], [waits], []):
            shown(job | {"errors": errors, "pauses": [{"queue": "score", "by": "ada", "reason": "a new GPU"}]})
        return job


@pytest.mark.parametrize("quiet", [False, True])
def test_a_watched_job_says_once_what_it_waits_for(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    with show.progress(quiet=quiet) as bar:
        show.watch(_Waiting(), "1", bar, bar.add_task("", total=None))  # type: ignore[arg-type]
    told = "Waiting until 2026-01-02 03:04 UTC at most: The server of the scorer openai:m is away."
    said = " ".join(capsys.readouterr().err.split())
    paused = "ada paused the queue score: a new GPU. The job goes on when it is resumed."
    assert [said.count(told), said.count(paused)] == [0 if quiet else 1] * 2


class _Building:
    """An API whose job builds a vector index."""

    def watch(self, job_id: str, shown: Any) -> dict[str, Any]:
        stages = [{"stage": "embed", "items_done": 3, "items_failed": 0, "items_total": 3}]
        job = {"kind": "index", "state": "running", "stages": stages, "errors": [], "error": None}
        for share in (None, 0.1, 0.424):
            shown(job | {"index_build": share})
        return job


def test_a_watched_job_tells_how_far_its_vector_index_is(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress(quiet=False) as bar:
        task = bar.add_task("", total=None)
        show.watch(_Building(), "1", bar, task)  # type: ignore[arg-type]
        (shown,) = bar.tasks
    assert (shown.description, shown.completed, shown.total) == ("index", 42, 100)
    assert " ".join(capsys.readouterr().err.split()).count("The database builds the vector index") == 1


def test_equal_errors_of_units_are_told_once_with_what_becomes_of_the_units(
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = {"stage": "fine", "attempt": 0, "state": "ready", "waits": True, "error": "The server is away."}
    refused = {"stage": "fine", "attempt": 4, "state": "dead", "waits": False, "error": "It refuses the key (401)."}
    broken = {"stage": "embed", "attempt": 1, "state": "ready", "waits": False, "error": "OSError: disk"}
    again = broken | {"attempt": 3, "state": "leased"}
    until = {"waits_until": "2026-01-02T03:04:05Z"}
    later = {"waits_until": "2026-01-02T03:05:05Z", "error": "The server is away."}
    some = [away | until | later, away | until, refused, refused, refused, broken, again]
    show.errors({"error": None, "errors": some})
    assert capsys.readouterr().err.splitlines() == [
        "fine stage, 2 units wait until 2026-01-02 03:05 UTC at most: The server is away.",
        "fine stage, 3 units failed after 4 attempts: It refuses the key (401).",
        "embed stage, 1 unit failed in 1 attempt and will be tried again: OSError: disk",
        "embed stage, 1 unit failed in 2 attempts and will be tried again: OSError: disk",
    ]
    # a view of a job has no more errors than this
    show.errors({"error": None, "errors": [away] * MAX_ERRORS})
    assert capsys.readouterr().err == f"fine stage, at least {MAX_ERRORS} units wait: The server is away.\n"
