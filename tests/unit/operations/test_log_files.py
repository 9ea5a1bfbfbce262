"""The logs of PostgreSQL and Redis are read from the ends of their files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from retllm import redaction
from retllm.operations import log_files
from retllm.operations.log_files import last_lines, postgres_lines, redis_lines


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("count", [1, 3, 99])
def test_the_last_lines_are_whole_whatever_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, count: int
) -> None:
    monkeypatch.setattr(log_files, "_BLOCK", block)
    lines = [f"line {number} é" for number in range(20)]
    log = tmp_path / "postgres.log"
    log.write_text("\n".join(lines) + "\n", "utf-8")
    assert last_lines(log, count) == lines[-count:]


def test_lines_from_before_a_start_are_in_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "redis.log.1").write_text("a\nb\nc\n")
    (tmp_path / "redis.log").write_text("d\n")
    assert last_lines(tmp_path / "redis.log", 3) == ["b", "c", "d"]
    assert last_lines(tmp_path / "redis.log", 1) == ["d"]
    assert last_lines(tmp_path / "postgres.log", 1) == []


def test_of_a_large_file_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "_MAX_BYTES", 100)
    monkeypatch.setattr(log_files, "_BLOCK", 50)
    log = tmp_path / "postgres.log"
    log.write_text("".join(f"line {number:03}\n" for number in range(100)))
    (tmp_path / "postgres.log.1").write_text("earlier\n")
    lines = last_lines(log, 90)
    assert lines == [f"line {number:03}" for number in range(100 - len(lines), 100)]
    assert 9 <= len(lines) <= 12


def test_lines_of_postgresql_have_what_belongs_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", {"a-secret-of-this-test"})
    first, second, third = postgres_lines(
        [
            "the end of a line that was cut",
            "2025-11-30 15:04:05.678 UTC [42] LOG:  database system is ready",
            "2025-11-30 15:04:06.000 UTC [43] ERROR:  duplicate key: a-secret-of-this-test",
            "2025-11-30 15:04:06.000 UTC [43] DETAIL:  Key (id)=(1) exists.",
            "2025-11-30 15:04:06.000 UTC [43] STATEMENT:  INSERT INTO t",
            "\tVALUES ($1)",
            "2025-11-30 15:04:07.000 UTC [44] FATAL:  the database system is shutting down",
        ]
    )
    assert first == (datetime(2025, 11, 30, 15, 4, 5, 678000, UTC), "info", "database system is ready", "")
    assert (second.level, second.text) == ("error", "duplicate key: ***")
    assert second.more.splitlines()[1:] == [
        "2025-11-30 15:04:06.000 UTC [43] STATEMENT:  INSERT INTO t",
        "\tVALUES ($1)",
    ]
    assert third.level == "critical"


def test_lines_of_redis_have_their_level() -> None:
    lines = redis_lines(
        [
            "7:M 30 Nov 2025 15:04:05.678 * Ready to accept connections tcp",
            "7:M 30 Nov 2025 15:04:06.000 # Out of memory",
        ]
    )
    assert [(line.level, line.text) for line in lines] == [
        ("info", "Ready to accept connections tcp"),
        ("warning", "Out of memory"),
    ]
    assert lines[0].at == datetime(2025, 11, 30, 15, 4, 5, 678000).astimezone(UTC)
