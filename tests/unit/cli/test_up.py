"""``retllm up`` rejects invalid settings before it starts anything."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from retllm.cli.up import Admin, _Output, up
from retllm.errors import StackError
from retllm.settings import PRESETS, Settings


@pytest.mark.parametrize("key", ["", "secret", "changeme-changeme-now-and-for-ever"])
def test_a_guessable_secret_key_is_rejected_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("RETLLM_SECRET_KEY", key)
    home = tmp_path / "home"
    result = CliRunner().invoke(up, ["--home", str(home), "--port", "0"])
    assert isinstance(result.exception, StackError)
    assert "RETLLM_SECRET_KEY" in result.exception.message
    assert not home.exists()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_start_message_contains_the_notice_about_the_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    settings = Settings(home=tmp_path, preset=preset)  # type: ignore[arg-type]
    stack: Any = SimpleNamespace(url="http://here", home=tmp_path, logs=tmp_path, processes={}, settings=settings)
    _Output(as_json=False).ready(stack, Admin("admin", None))
    lines = capsys.readouterr().out.splitlines()
    notice = PRESETS[preset].notice
    assert [line for line in lines if "drawn scenes" in line] == ([notice] if notice else [])
    _Output(as_json=True).ready(stack, Admin("admin", None))
    assert json.loads(capsys.readouterr().out)["notice"] == notice
