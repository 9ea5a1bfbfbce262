"""The embedded server is set up for the memory of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from retllm.stack import postgres_memory
from retllm.stack.postgres import EmbeddedPostgres
from retllm.stack.postgres_memory import MIB, Machine, memory_options

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("memory", "shared_buffers", "cache", "build"),
    [
        (512 * MIB, "128MB", "256MB", "64MB"),
        (16 * GIB, "2048MB", "8192MB", "2048MB"),
        (512 * GIB, "8192MB", "262144MB", "8192MB"),
    ],
)
def test_the_server_takes_a_share_of_the_memory(memory: int, shared_buffers: str, cache: str, build: str) -> None:
    options = memory_options(Machine(memory, shared_memory=memory // 4, cores=8))
    found = [options[name] for name in ("shared_buffers", "effective_cache_size", "maintenance_work_mem")]
    assert found == [shared_buffers, cache, build]
    assert options["max_parallel_maintenance_workers"] == "4"


def test_an_index_is_built_by_one_process_in_a_container_with_little_shared_memory() -> None:
    options = memory_options(Machine(16 * GIB, shared_memory=64 * MIB, cores=8))
    assert options["max_parallel_maintenance_workers"] == "0"


def test_a_machine_with_one_core_builds_with_one_process() -> None:
    assert memory_options(Machine(4 * GIB, 4 * GIB, cores=1))["max_parallel_maintenance_workers"] == "0"


@pytest.mark.parametrize(("text", "expected"), [("2147483648\n", 2 * GIB), ("max\n", None), (None, None)])
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: int | None
) -> None:
    file = tmp_path / "memory.max"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(postgres_memory, "_LIMITS", (file,))
    whole = int(postgres_memory.psutil.virtual_memory().total)
    assert Machine.this().memory == (min(expected, whole) if expected else whole)


def test_the_server_starts_with_these_options(tmp_path: Path) -> None:
    argv = EmbeddedPostgres(tmp_path).spec(tmp_path / "log", {}).argv
    assert {f"{name}={value}" for name, value in memory_options(Machine.this()).items()} <= set(argv)
    assert not any(
        "shared_buffers" in part for part in EmbeddedPostgres(tmp_path, durable=False).spec(tmp_path, {}).argv
    )
