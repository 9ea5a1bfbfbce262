"""``retllm up`` refuses what it must before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from retllm.cli.up import up
from retllm.errors import StackError


@pytest.mark.parametrize("key", ["", "secret", "changeme-changeme-now-and-for-ever"])
def test_a_secret_key_that_can_be_guessed_is_told_and_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("RETLLM_SECRET_KEY", key)
    home = tmp_path / "home"
    told = CliRunner().invoke(up, ["--home", str(home), "--port", "0"])
    assert isinstance(told.exception, StackError)
    assert "RETLLM_SECRET_KEY" in told.exception.message
    assert not home.exists()
