"""The doctor's checks of the secret key and the session cookie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retllm.cli.checks import check_cookies, check_secret_key, run_checks
from retllm.identity.secret_key import secret_key
from retllm.settings import Settings

GOOD = "6f1c09d2a7b84e53f0e1d2c3b4a5968778695a4b3c2d1e0f9a8b7c6d5e4f3021"
REMOTE = "postgresql://user:canary@db.example/retllm"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a platform that was never started, without settings in the environment."""
    for name in ("DATABASE_URL", "RETLLM_SECRET_KEY", "RETLLM_HOST", "RETLLM_PROXIES", "RETLLM_SECURE_COOKIES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def _key(home: Path, **given: Any) -> tuple[str, str]:
    check = check_secret_key(Settings(home=home, **given))
    assert bool(check.advice) is (check.state == "warning")
    assert GOOD not in check.message + check.advice
    assert "canary" not in check.message + check.advice
    return check.state, check.message + check.advice


def test_a_private_key_file_is_ok_and_the_check_does_not_create_one(home: Path) -> None:
    assert _key(home)[0] == "ok"
    assert not home.exists()
    secret_key(Settings(home=home))
    assert _key(home)[0] == "ok"


def test_a_key_file_that_others_can_read_is_a_warning(home: Path) -> None:
    secret_key(Settings(home=home))
    (home / "secret_key").chmod(0o644)
    state, text = _key(home)
    assert state == "warning"
    assert "chmod 600" in text


def test_a_local_key_file_with_a_remote_database_is_a_warning(home: Path) -> None:
    state, text = _key(home, database_url=REMOTE)
    assert state == "warning"
    assert "RETLLM_SECRET_KEY on every host" in text
    assert _key(home, database_url=REMOTE, secret_key=GOOD)[0] == "ok"
    assert _key(home, database_url="postgresql://u@/retllm?host=/run/postgres")[0] == "ok"
    assert _key(home, database_url="postgresql://u@127.0.0.1/retllm")[0] == "ok"
    assert _key(home, database_url="no address")[0] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "secret", "x" * 40])
def test_a_guessable_key_fails(home: Path, key: str) -> None:
    (check,) = [one for one in run_checks(Settings(home=home, secret_key=key, port=0)) if one.name == "secret key"]
    assert check.state == "failed"
    assert check.advice.startswith("Set it to the output of `openssl rand -hex 32`")


@pytest.mark.parametrize(
    ("given", "state", "word"),
    [
        ({}, "ok", "only this machine"),
        ({"host": "::1"}, "ok", "only this machine"),
        ({"host": "localhost"}, "ok", "only this machine"),
        ({"host": "0.0.0.0"}, "warning", "RETLLM_SECURE_COOKIES=true"),
        ({"host": "::"}, "warning", "RETLLM_SECURE_COOKIES=true"),
        ({"host": "192.0.2.1"}, "warning", "RETLLM_SECURE_COOKIES=true"),
        ({"host": "search.example"}, "warning", "RETLLM_SECURE_COOKIES=true"),
        ({"proxies": 1}, "warning", "RETLLM_SECURE_COOKIES=true"),
        ({"host": "0.0.0.0", "secure_cookies": True}, "warning", "Set RETLLM_PROXIES"),
        ({"proxies": 1, "secure_cookies": True}, "ok", "HTTPS only"),
    ],
)
def test_session_cookies_that_can_be_intercepted_are_a_warning(
    home: Path, given: dict[str, Any], state: str, word: str
) -> None:
    check = check_cookies(Settings(home=home, **given))
    assert (check.state, bool(check.advice)) == (state, state == "warning")
    assert word in check.message + check.advice
