"""End-to-end tests: the command line with real servers, real workers and the shipped models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
from PIL import Image
from tests.functional.forked import Forks
from tests.soak import scaled
from tests.waiting import wait_until

from retllm.cli.client import Api, open_api
from retllm.cli.up import Admin
from retllm.demo.world import DemoQuery, write_collection
from retllm.fine import Scored, final_order
from retllm.stack import LocalStack
from retllm.stack.client_file import read_client

pytestmark = pytest.mark.timeout(900)

FAMILIES = 6
SEED = 4711


class Retllm(Protocol):
    """Runs the command line in a separate process and returns its JSON output."""

    def __call__(self, *arguments: str, status: int = 0) -> Any: ...


@pytest.fixture(scope="module")
def retllm(stack: LocalStack, admin: Admin, forks: Forks) -> Retllm:
    def run(*arguments: str, status: int = 0) -> Any:
        done = forks.command([*arguments, "--json"], os.environ | {"RETLLM_HOME": str(stack.home)})
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def api(stack: LocalStack, admin: Admin) -> Api:
    return open_api(stack.url, read_client(stack.home)["token"])


@pytest.fixture(scope="module")
def scenes(retllm: Retllm, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[DemoQuery], Path]:
    """A collection of generated scenes without captions, uploaded from a folder and indexed."""
    folder = tmp_path_factory.mktemp("scenes")
    queries = write_collection(folder, FAMILIES, SEED)
    (folder / "captions.jsonl").rename(folder.parent / "captions.jsonl")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    answer = retllm("upload", "scenes of the test", str(folder), status=1)
    assert answer["job"]["state"] == "succeeded"
    by_status = {status: [f for f in answer["files"] if f["status"] == status] for status in ("added", "rejected")}
    assert len(by_status["added"]) == len(queries)
    assert [file["name"] for file in by_status["rejected"]] == [f"{folder.name}/broken.png"]
    return answer["collection"], queries, folder


def test_uploading_a_folder_again_adds_nothing(retllm: Retllm, scenes) -> None:
    collection, queries, folder = scenes
    answer = retllm("upload", collection, str(folder), status=1)
    assert sum(file["status"] == "duplicate" for file in answer["files"]) == len(queries)
    (row,) = [row for row in retllm("collections")["collections"] if row["id"] == collection]
    assert (row["items_total"], row["items_indexed"]) == (len(queries), len(queries))


def test_the_fine_stage_ranks_the_right_picture_first_more_often_than_the_coarse_stage(
    stack: LocalStack, api: Api, scenes
) -> None:
    """The pictures of a family differ in one property."""
    collection, queries, _ = scenes
    sample = queries[::3]
    firsts = {"coarse": 0, "fine": 0}
    for query in sample:
        job = api.submit(f"/collections/{collection}/searches", json={"text": query.query})
        assert api.watch(job["id"], lambda _: None)["state"] == "succeeded"
        for row in api.get(f"/searches/{job['id']}")["candidates"]:
            if row["name"].endswith(f"/{query.file}"):
                firsts["coarse"] += row["coarse_rank"] == 1
                firsts["fine"] += row["final_rank"] == 1
    assert firsts["fine"] > firsts["coarse"]
    assert firsts["fine"] >= 0.9 * len(sample)


def test_a_watched_search_returns_what_determines_its_order(retllm: Retllm, scenes) -> None:
    collection, queries, _ = scenes
    result = retllm("search", collection, queries[5].query, "-k", "9", "--watch")
    assert result["provisional"] is False
    assert result["searched_items"] == len(queries)
    rows = result["candidates"]
    assert [row["rank"] for row in rows] == list(range(1, 10))
    assert sorted(row["coarse_rank"] for row in rows) == list(range(1, 10))
    again = final_order([Scored(r["item_id"], r["coarse_rank"], r["score"], r["entropy"]) for r in rows])
    assert [entry.key for entry in again] == [row["item_id"] for row in rows]
    for name in ("embedder_revision", "scorer_version", "scorer_revision", "prompt_version"):
        assert result[name]
    assert result["injection"]["alpha"] == 0.3
    assert {stage["stage"] for stage in result["job"]["stages"]} == {"coarse", "fine"}
    assert retllm("jobs", "show", result["id"])["candidates"] == rows


def test_a_search_uses_the_given_mode_and_options(retllm: Retllm, api: Api, scenes) -> None:
    collection, queries, _ = scenes
    options = ["--mode", "choice", "--adaptive", "--fusion-weight", "0.5", "--trace"]
    result = retllm("search", collection, queries[7].query, "-k", "12", *options, "--watch")
    assert (result["mode"], result["fusion_weight"], result["trace"]) == ("choice", 0.5, True)
    assert (result["no_match"] is None) is (result["match_threshold"] is None)
    scored = [row for row in result["candidates"] if row["score"] is not None]
    rest = result["candidates"][len(scored) :]
    assert result["adaptive"]["first"] <= len(scored) <= 12
    assert [row["fused"] for row in scored] == sorted((row["fused"] for row in scored), reverse=True)
    assert [row["coarse_rank"] for row in rest] == sorted(row["coarse_rank"] for row in rest)
    assert all(row["score"] is None for row in rest)
    assert all(row["has_trace"] for row in scored)
    trace = api.get(f"/searches/{result['id']}/candidates/{scored[0]['item_id']}/trace")
    assert len(trace["uncertainty"]) > 1


def test_verbalized_mode_returns_a_score_or_an_error_for_each_candidate(retllm: Retllm, scenes) -> None:
    collection, queries, _ = scenes
    result = retllm("search", collection, queries[8].query, "-k", "6", "--mode", "verbalized", "--watch")
    assert result["job"]["state"] == "succeeded"
    assert result["tie_decimals"] == 2
    assert all((row["score"] is None) == (row["error"] is not None) for row in result["candidates"])


def test_a_repeated_search_uses_cached_scores(retllm: Retllm, scenes) -> None:
    collection, queries, _ = scenes
    first, again = (
        retllm("search", collection, queries[9].query, "-k", "6", "--watch")["candidates"] for _ in range(2)
    )
    assert all(row["cached"] for row in again)
    assert [row["score"] for row in again] == [row["score"] for row in first]


@pytest.mark.parametrize("with_text", [False, True])
def test_a_picture_can_be_a_query_with_or_without_text(retllm: Retllm, scenes, with_text: bool) -> None:
    collection, queries, folder = scenes
    text = [queries[0].query] if with_text else []
    picture = str(folder / queries[0].file)
    result = retllm("search", collection, *text, "--picture", picture, "-k", "5", "--watch")
    assert result["kind"] == ("image+text" if with_text else "image")
    (itself,) = [row for row in result["candidates"] if row["name"].endswith(f"/{queries[0].file}")]
    if not with_text:
        assert itself["coarse_rank"] == 1
        assert itself["similarity"] == pytest.approx(1, abs=1e-3)
    assert all(row["score"] is not None for row in result["candidates"])


def test_a_search_finds_items_of_the_given_kinds(retllm: Retllm, scenes, tmp_path: Path) -> None:
    _, queries, folder = scenes
    for query in queries[:8]:
        (tmp_path / query.file).write_bytes((folder / query.file).read_bytes())
    lines = [json.dumps({"file": query.file, "caption": query.query}) for query in queries[:4]]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    for number, query in enumerate(queries[8:12]):
        (tmp_path / f"{number}.txt").write_text(query.query)
    answer = retllm("upload", "mixed kinds", str(tmp_path))
    (row,) = [row for row in retllm("collections")["collections"] if row["name"] == "mixed kinds"]
    assert row["items"] == {"image": 4, "text": 4, "image+text": 4}
    for kinds in (["text"], ["image+text"], ["image", "text"]):
        options = [part for kind in kinds for part in ("--kind", kind)]
        result = retllm("search", answer["collection"], queries[0].query, *options, "--watch")
        assert {candidate["kind"] for candidate in result["candidates"]} == set(kinds)
        assert all(candidate["score"] is not None for candidate in result["candidates"])


def test_photographs_can_be_uploaded_and_searched(retllm: Retllm, tmp_path: Path) -> None:
    """The photographs of scikit-image work too, although the small models are not trained on photographs."""
    from skimage import data

    names = ["astronaut", "camera", "chelsea", "coffee", "rocket", "coins", "page", "text", "moon", "clock"]
    for name in names:
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.jpg")
    answer = retllm("upload", "photographs", str(tmp_path))
    assert {file["status"] for file in answer["files"]} == {"added"}
    query = str(tmp_path / "chelsea.jpg")
    by_text = retllm("search", answer["collection"], "a cat", "--watch")
    assert len(by_text["candidates"]) == len(names)
    by_picture = retllm("search", answer["collection"], "--picture", query, "--watch")
    (itself,) = [row for row in by_picture["candidates"] if row["name"] == f"{tmp_path.name}/chelsea.jpg"]
    assert itself["coarse_rank"] == 1


def test_workers_let_web_server_and_database_go_first(stack: LocalStack) -> None:
    nice = {name: psutil.Process(pid).nice() for name, pid in stack.processes.items()}
    workers = {"media", "embed", "score"}
    assert workers | {"web", "dispatch", "postgres"} <= nice.keys()
    assert all((value > nice["web"]) == (name in workers) for name, value in nice.items()), nice


def test_killed_workers_lose_no_result_and_duplicate_none(stack: LocalStack, api: Api, scenes) -> None:
    collection, queries, _ = scenes
    jobs = [
        api.submit(f"/collections/{collection}/searches", json={"text": query.query, "k": 24})["id"]
        for query in queries[:6]
    ]
    wait_until(lambda: any(api.get(f"/jobs/{job}")["state"] == "running" for job in jobs), "no worker claimed a unit")
    for name in scaled(("score",), ("score", "embed")):
        before = stack.processes[name]
        stack.kill(name, signal.SIGKILL)
        wait_until(lambda n=name, b=before: stack.processes.get(n) not in (None, b), f"{name} was not started again")
    for job in jobs:
        ended = api.watch(job, lambda _: None)
        assert ended["state"] == "succeeded", ended
        rows = api.get(f"/searches/{job}")["candidates"]
        assert len(rows) == 24
        assert all(row["score"] is not None for row in rows)
        assert sorted(row["final_rank"] for row in rows) == list(range(1, 25))


def test_hints_lost_with_redis_are_sent_again(stack: LocalStack, api: Api, scenes) -> None:
    """Redis is emptied right after a search was accepted, and the dispatcher publishes the hints again."""
    import redis

    collection, queries, _ = scenes
    os.kill(stack.processes["embed"], signal.SIGSTOP)
    try:
        job = api.submit(f"/collections/{collection}/searches", json={"text": queries[1].query})
        redis.Redis.from_url(stack.redis_url).flushall()
    finally:
        os.kill(stack.processes["embed"], signal.SIGCONT)
    assert api.watch(job["id"], lambda _: None)["state"] == "succeeded"


def test_a_cancelled_search_stops_and_continues_when_retried(
    stack: LocalStack, retllm: Retllm, api: Api, scenes
) -> None:
    collection, queries, _ = scenes
    pid = stack.processes["score"]
    os.kill(pid, signal.SIGSTOP)
    try:
        job = api.submit(f"/collections/{collection}/searches", json={"text": queries[2].query, "k": 30})["id"]
        wait_until(lambda: len(api.get(f"/jobs/{job}")["stages"]) == 2, "the coarse stage did not end")
        assert len(api.get(f"/searches/{job}")["candidates"]) == 30
        retllm("jobs", "cancel", job)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert api.watch(job, lambda _: None)["state"] == "cancelled"
    assert psutil.pid_exists(pid)
    retllm("jobs", "retry", job)
    assert api.watch(job, lambda _: None)["state"] == "succeeded"
    assert all(row["score"] is not None for row in api.get(f"/searches/{job}")["candidates"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "no such collection", "a cat"), "no collection named"),
        (("search", "scenes of the test", " "), "query is empty"),
        (("search", "scenes of the test", "a", "-k", "5000"), "k is at most"),
        (("jobs", "show", "00000000-0000-7000-8000-000000000000"), "no such job"),
    ],
)
def test_an_invalid_command_prints_an_error_code_and_message(retllm: Retllm, scenes, arguments, words: str) -> None:
    error = retllm(*arguments, status=2)["error"]
    assert words in error["message"]
    assert error["code"] in {"not_found", "invalid_input"}


def test_a_query_picture_that_is_not_a_picture_is_rejected(retllm: Retllm, scenes, tmp_path: Path) -> None:
    (tmp_path / "not.png").write_text("words")
    error = retllm("search", "scenes of the test", "--picture", str(tmp_path / "not.png"), status=2)["error"]
    assert error["code"] == "media_rejected"


def test_a_killed_import_loses_nothing_and_doubles_nothing(
    stack: LocalStack, api: Api, admin: Admin, tmp_path: Path
) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    for number in range(64):
        Image.new("RGB", (8, 8), (number, 9, 99)).save(folder / f"{number:02}.png")
    # it takes a while to be copied, and comes after the pictures
    large = folder / "large.zip"
    with large.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(3 << 30)
    command = [sys.executable, "-m", "retllm.cli.main", "import", str(folder), "--to", "drive", "--json"]
    environment = os.environ | {"RETLLM_HOME": str(stack.home), "RETLLM_IMPORT_ROOTS": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as killed:
        while not any(sum(job["files"]["counts"].values()) for job in _uploads_to(api, "drive")):
            assert killed.poll() is None
            time.sleep(0.02)
        killed.kill()
    large.unlink()
    with Image.new("RGB", (8, 8), "white") as last:
        last.save(folder / "last.png")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "which an earlier command left open" in again.stderr
    (collection,) = (row for row in api.get("/collections")["collections"] if row["name"] == "drive")
    assert (collection["items_total"], collection["items_indexed"]) == (65, 65)
    # neither came a second time, as a duplicate
    assert sum(job["files"]["counts"].get("added", 0) for job in _uploads_to(api, "drive")) == 65
    assert not any(job["files"]["counts"].get("duplicate") for job in _uploads_to(api, "drive"))
    last_time = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(last_time.stdout)["jobs"] == []


def _uploads_to(api: Api, name: str) -> list[Any]:
    found = [row for row in api.get("/collections")["collections"] if row["name"] == name]
    return [job for row in found for job in api.get("/jobs", collection=row["id"], kind="upload")["jobs"]]
