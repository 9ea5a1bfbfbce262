"""The checks of `retllm doctor`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from retllm.cli import check_models, checks
from retllm.cli.doctor import doctor
from retllm.errors import StackError
from retllm.fine import ModelSource, sources
from retllm.settings import PRESETS, Settings
from retllm.stack import LocalStack
from retllm.stack.leftovers import running_stack

Usage = namedtuple("Usage", "total used free")


def settings(home: Path, **values: object) -> Settings:
    return Settings(home=home, **{"database_url": None, "redis_url": None, **values})  # type: ignore[arg-type]


def test_without_a_running_stack_the_embedded_servers_are_found_and_no_folder_is_created(tmp_path: Path) -> None:
    found = {check.name: check for check in checks.run_checks(settings(tmp_path / "home", port=0))}
    assert list(found) == [
        "python",
        "postgres",
        "redis",
        "storage",
        "disk",
        "port",
        "secret key",
        "cookies",
        "decoders",
        "gpu",
        "embedder",
        "scorer",
        "models",
        "workers",
    ]
    assert found["postgres"].message == ("postgres (PostgreSQL) 18.4 with pgvector 0.8.5, which `retllm up` starts.")
    assert found["redis"].message.startswith("Valkey server v=9.")
    assert {found[name].state for name in ("python", "postgres", "redis", "storage", "port")} == {"ok"}
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_only_the_models_of_the_demo_preset_cause_a_warning(tmp_path: Path) -> None:
    found = {check.name: check for check in checks.run_checks(settings(tmp_path / "home", port=0))}
    assert (found["models"].state, found["models"].message) == ("warning", PRESETS["demo"].notice)
    other = settings(tmp_path / "home", port=0, preset="small")
    assert "models" not in {check.name for check in checks.run_checks(other)}


def test_the_servers_of_a_running_stack_are_checked(servers: LocalStack) -> None:
    running = running_stack(servers.home)
    assert running is not None
    configured = settings(servers.home)
    assert checks.check_postgres(configured, running).message.endswith("started by `retllm up`.")
    assert checks.check_redis(configured, running).message.endswith("started by `retllm up`.")


def test_configured_servers_are_checked(tmp_path: Path, servers: LocalStack) -> None:
    configured = settings(tmp_path, database_url=servers.database_url, redis_url=servers.redis_url)
    assert checks.check_postgres(configured, None).message.endswith("(DATABASE_URL).")
    assert checks.check_redis(configured, None).message.endswith("(REDIS_URL).")
    assert "***" in checks.check_redis(configured, None).message


def test_unreachable_servers_fail_with_advice(tmp_path: Path) -> None:
    configured = settings(tmp_path, database_url="postgresql://h:1@127.0.0.1:1/n", redis_url="redis://127.0.0.1:1/0")
    found = {check.name: check for check in checks.run_checks(configured)}
    for name, variable in (("postgres", "DATABASE_URL"), ("redis", "REDIS_URL")):
        assert found[name].state == "failed"
        assert found[name].message.endswith("can't be reached (Connection refused).")
        assert found[name].advice.startswith(f"Start that server, or correct {variable}, or unset it")


def test_a_port_in_use_fails_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (found,) = (c for c in checks.run_checks(settings(tmp_path, port=port)) if c.name == "port")
    assert found == checks.Check(
        "port", "failed", f"Port {port} on 127.0.0.1 is in use.", "Set RETLLM_PORT to a free one (0 chooses one)."
    )


def test_pictures_that_other_accounts_can_read_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir(mode=0o700)
    assert checks.check_storage(settings(tmp_path)).state == "ok"
    folder.chmod(0o755)
    found = checks.check_storage(settings(tmp_path))
    assert found.state == "warning"
    assert f"chmod go= {folder}" in found.advice
    assert checks.check_storage(settings(tmp_path, umask="022")).state == "ok"


def test_unwritable_storage_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    configured = settings(tmp_path, storage_url=f"file://{tmp_path}/file/media")
    assert checks.check_storage(configured).state == "failed"
    assert checks.check_storage(settings(tmp_path, storage_url="memory://media")).state == "ok"
    assert checks.check_storage(settings(tmp_path, storage_url="nosuch://media")).state == "failed"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(("gigabytes", "state"), [(0.5, "failed"), (5, "warning"), (50, "ok")])
def test_low_disk_space_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float, state: str
) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: Usage(0, 0, int(gigabytes * 2**30)))
    assert checks.check_disk(settings(tmp_path)).state == state


def test_a_fixed_layer_that_the_scorer_lacks_fails(tmp_path: Path) -> None:
    demo = PRESETS["demo"].scorer
    assert checks.check_scorer(settings(tmp_path, scorer=demo, trigger="fixed", fixed_layer=5)).state == "ok"
    found = checks.check_scorer(settings(tmp_path, scorer=demo, trigger="fixed", fixed_layer=6))
    assert found.state == "failed"
    assert found.message == f"RETLLM_FIXED_LAYER is 6, but the layers of {demo} are 0 to 5."


@pytest.mark.parametrize(
    ("device", "preset", "state"),
    [
        ("auto", "demo", "ok"),
        ("auto", "paper", "warning"),
        ("auto", "best", "warning"),
        ("cuda", "demo", "failed"),
        ("cuda:1", "paper", "failed"),
    ],
)
def test_a_missing_gpu_is_reported_if_the_device_or_preset_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, preset: str, state: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert checks.check_gpu(settings(tmp_path, device=device, preset=preset)).state == state


def test_the_name_and_memory_of_the_gpu_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A Card")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: namedtuple("Properties", "total_memory")(80 * 2**30)
    )
    assert checks.check_gpu(settings(tmp_path, preset="paper")).message.startswith("A Card (80 GB)")


def test_a_missing_model_folder_fails_with_advice(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    configured = settings(tmp_path, embedder=f"local-dir:{folder}", scorer=str(folder))
    for found in (checks.check_embedder(configured), checks.check_scorer(configured)):
        assert found.state == "failed"
        assert "does not exist" in found.message
        assert found.advice.startswith(f"Set RETLLM_{found.name.upper()} to a model that is available")


def test_the_scorer_is_shown_with_its_limit_of_visual_tokens(tmp_path: Path) -> None:
    unset, low = (checks.check_scorer(settings(tmp_path, picture_tokens=tokens)).message for tokens in (None, 400))
    assert "at most 1,024 visual tokens, or as few as the model makes." in unset
    assert "at most 400 visual tokens." in low


def test_each_extra_scorer_has_its_own_check(tmp_path: Path) -> None:
    one_mode = tmp_path / "one_mode.toml"
    one_mode.write_text('modes = ["true_false"]', encoding="utf-8")
    extras = [str(tmp_path / "away"), {"scorer": PRESETS["demo"].scorer, "profile": str(one_mode)}]
    configured = settings(tmp_path / "home", port=0, scorer="/models/main", mode="choice", extra_scorers=extras)
    found = {check.name: check for check in checks.run_checks(configured)}
    second, third = found["scorer 2"], found["scorer 3"]
    assert (second.state, str(tmp_path / "away") in second.message) == ("failed", True)
    assert second.advice == "Remove it from RETLLM_EXTRA_SCORERS, or name a model that is available."
    assert (second.message.endswith("Searches name it away."), third.message.endswith("Searches name it mllm.")) == (
        True,
        True,
    )
    # it is asked in a mode that it has
    assert third.state == "ok"
    assert "Its profile is one_mode and has the mode true_false only." in third.message
    assert "RETLLM_SCORER to" in found["scorer"].advice


def test_each_extra_embedder_has_its_own_check(tmp_path: Path) -> None:
    configured = settings(tmp_path / "home", port=0, extra_embedders=(f"local-dir:{tmp_path / 'away'}",))
    found = {check.name: check for check in checks.run_checks(configured)}
    assert found["embedder"].state == "ok"
    assert (found["embedder 2"].state, str(tmp_path / "away") in found["embedder 2"].message) == ("failed", True)
    assert "RETLLM_EXTRA_EMBEDDERS" in found["embedder 2"].advice


def source(where: str) -> ModelSource:
    return ModelSource("org/model", where, None, None, "It is somewhere.")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "problem", "state"),
    [
        ("folder", "down", "ok"),
        ("cache", "down", "ok"),
        ("download", None, "ok"),
        ("download", "the hub is down", "failed"),
        ("nowhere", None, "failed"),
    ],
)
def test_a_model_that_must_be_downloaded_needs_a_reachable_hub(
    monkeypatch: pytest.MonkeyPatch, where: str, problem: str | None, state: str
) -> None:
    monkeypatch.setattr(sources, "hub_problem", lambda: problem)
    assert check_models._model("scorer", source(where), "RETLLM_SCORER").state == state


@pytest.mark.parametrize("commit", ["0" * 40, None])
def test_a_model_from_the_hub_causes_a_warning_until_its_commit_is_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, commit: str | None
) -> None:
    found = ModelSource("org/model", "cache" if commit else "download", None, commit, "It is somewhere.")
    monkeypatch.setattr(sources, "hub_problem", lambda: None)
    monkeypatch.setattr("retllm.fine.can_load", lambda *_: found)
    named = commit or "COMMIT"
    for revision, state in ((None, "warning"), ("main", "warning"), ("1" * 40, "ok")):
        check = checks.check_scorer(settings(tmp_path, scorer="org/model", scorer_revision=revision))
        assert check.state == state
        assert check.advice == ("" if state == "ok" else f"Set RETLLM_SCORER_REVISION to {named}.")
    for pin, state in (("", "warning"), ("@main", "warning"), ("@" + "1" * 40, "ok")):
        source = replace(found, model=f"hf-hub:org/model{pin}")
        monkeypatch.setattr("retllm.embedding.can_load", lambda _, source=source: source)
        check = checks.check_embedder(settings(tmp_path, embedder=source.model))
        assert check.state == state
        assert check.advice == ("" if state == "ok" else f"Set hf-hub:org/model@{named} in RETLLM_EMBEDDER.")


@pytest.mark.parametrize(
    ("message", "what", "advice"),
    [
        ("Port 1 is taken; set X to 0.", "Port 1 is taken.", "Set X to 0."),
        ("A at b://c:1/d fails (e: f): start that server.", "A at b://c:1/d fails (e: f).", "Start that server."),
        ("Just broken.", "Just broken.", ""),
    ],
)
def test_an_error_is_split_into_message_and_advice(message: str, what: str, advice: str) -> None:
    assert checks.failed("x", StackError(message)) == checks.Check("x", "failed", what, advice)


@pytest.mark.slow
def test_the_json_output_contains_the_checks_and_a_failure_exits_with_status_2(tmp_path: Path) -> None:
    env = {**os.environ, "RETLLM_HOME": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0", "RETLLM_PORT": "0"}
    command = [sys.executable, "-m", "retllm.cli.main", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert result.returncode == 2
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert {check["name"]: check["state"] for check in answer["checks"]}["redis"] == "failed"


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("warning", 0), ("failed", 2)])
def test_the_text_output_shows_each_check_with_its_advice(
    monkeypatch: pytest.MonkeyPatch, state: checks.State, status: int
) -> None:
    found = [checks.Check("disk", state, "It is so.", "Do that.")]
    monkeypatch.setattr("retllm.cli.doctor.run_checks", lambda _: found)
    result = CliRunner().invoke(doctor, standalone_mode=False)
    assert result.return_value == status
    assert f"{state:7}  disk" in result.stdout
    assert ("-> Do that." in result.stdout) == (state != "ok")
