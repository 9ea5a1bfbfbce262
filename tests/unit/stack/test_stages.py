"""The platform's processes as stages, and their commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from retllm.queue.routing import QUEUE_OF, Routing
from retllm.settings import Settings
from retllm.stack import commands
from retllm.stack.child import ProcessSpec
from retllm.stack.stages import platform_stages

PARTS = {"migrate", "web", "dispatch", "embed", "score"}


def stages(
    tmp_path: Path, parts: set[str] = PARTS, env: dict[str, str] | None = None, **values: Any
) -> list[list[ProcessSpec]]:
    settings = Settings(home=tmp_path, **values)
    env = {"RETLLM_STACK": "0123456789abcdef", **(env or {})}
    return platform_stages(settings, parts, env, 1, lambda name: tmp_path / f"{name}.log", tmp_path)


def names(found: list[list[ProcessSpec]]) -> list[list[str]]:
    return [[spec.name for spec in stage] for stage in found]


def test_the_stages_are_migration_then_web_then_dispatcher_and_workers(tmp_path: Path) -> None:
    found = stages(tmp_path)
    assert names(found) == [["migrate"], ["web"], ["dispatch", "embed", "score"]]
    assert found[0][0].once


def test_only_the_requested_parts_have_processes(tmp_path: Path) -> None:
    assert names(stages(tmp_path, {"postgres", "redis"})) == []
    assert names(stages(tmp_path, {"migrate", "score"})) == [["migrate"], ["score"]]


def test_each_of_several_workers_has_its_own_name_node_and_ready_file(tmp_path: Path) -> None:
    (last,) = stages(tmp_path, {"embed"}, embed_workers=2)
    assert [spec.name for spec in last] == ["embed1", "embed2"]
    assert last[0].argv[-4:-2] == ("--hostname", "embed1@0123456789ab")
    assert last[0].env[commands.READY_VARIABLE] != last[1].env[commands.READY_VARIABLE]


def test_several_workers_are_distributed_over_the_visible_gpus(tmp_path: Path) -> None:
    (last,) = stages(tmp_path, {"score"}, env={"CUDA_VISIBLE_DEVICES": "4,7"}, score_workers=3)
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in last] == ["4", "7", "4"]
    (one,) = stages(tmp_path, {"score"}, env={"CUDA_VISIBLE_DEVICES": "4,7"})
    assert one[0].env["CUDA_VISIBLE_DEVICES"] == "4,7"


EXTRAS = ["openai+http://gpu:1/v1#org/judge:v2", "/models/other"]


def test_each_scorer_has_workers_for_its_queue_under_a_name_that_a_file_can_have(tmp_path: Path) -> None:
    (last,) = stages(tmp_path, {"score"}, extra_scorers=EXTRAS)
    queues = [spec.argv[spec.argv.index("--queues") + 1] for spec in last]
    assert [spec.name for spec in last] == ["score", "score-2-openai-org-judge-v2", "score-3-other"]
    assert queues == ["score", "score:openai:org/judge:v2", "score:other"]
    assert set(queues) < set(Routing(("openai:org/judge:v2", "other")).queues)
    (last,) = stages(tmp_path, {"score"}, extra_scorers=EXTRAS, score_workers=2)
    assert [spec.name for spec in last][3:] == ["score-2-openai-org-judge-v2-2", "score-3-other-1", "score-3-other-2"]


def test_the_scorers_share_the_gpus_and_one_on_a_server_takes_none(tmp_path: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "4,7,9"}
    (last,) = stages(tmp_path, {"score"}, env=env, extra_scorers=EXTRAS, score_workers=2)
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in last] == ["4", "7", "4,7,9", "4,7,9", "9", "4"]


def test_a_worker_is_ready_when_its_file_exists_and_an_old_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "score.ready").touch()
    (last,) = stages(tmp_path, {"score"})
    assert not last[0].ready()
    (tmp_path / "score.ready").touch()
    assert last[0].ready()


def test_the_ready_file_contains_the_process_id_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retllm.stack.ready import write_ready_file

    monkeypatch.setenv(commands.READY_VARIABLE, str(tmp_path / "it"))
    write_ready_file(sender=None)
    assert (tmp_path / "it").read_text() == str(os.getpid())
    monkeypatch.delenv(commands.READY_VARIABLE)
    write_ready_file(sender=None)


def test_the_workers_of_the_stack_extend_the_commands_of_the_procfile() -> None:
    for kind in commands.QUEUES:
        assert commands.stack_worker(kind, "n@h")[: len(commands.worker(kind))] == commands.worker(kind)


def test_the_workers_serve_exactly_the_queues_that_get_notifications() -> None:
    served = {queue for queues in commands.QUEUES.values() for queue in queues.split(",")}
    assert served == set(QUEUE_OF.values())


def test_a_worker_has_more_time_to_stop_than_it_needs_to_return_its_unit(tmp_path: Path) -> None:
    (last,) = stages(tmp_path, {"embed", "score"}, stop_seconds=40)
    assert [spec.stop_seconds > 40 for spec in last] == [True, True]
