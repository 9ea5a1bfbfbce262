"""The system account of PostgreSQL."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from retllm.stack.account import allow_search, postgres_account


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root")
def test_a_normal_user_runs_postgres_itself() -> None:
    assert postgres_account() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_root_runs_postgres_under_another_account() -> None:
    account = postgres_account()
    assert account is not None
    assert account.uid != 0
    assert account == postgres_account()


def test_folders_become_searchable_but_not_readable(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    inner.chmod(0o700)
    # what is changed is told
    assert allow_search(inner / "data")[:2] == [inner, tmp_path / "closed"]
    assert allow_search(inner / "data") == []
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o701
    assert stat.S_IMODE(inner.stat().st_mode) == 0o701
