"""The secret key: generated once, readable by its owner only, and rejected if guessable."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

import pytest

from retllm.errors import StackError
from retllm.identity.secret_key import derived, secret_key
from retllm.settings import Settings

GOOD = "6f1c09d2a7b84e53f0e1d2c3b4a5968778695a4b3c2d1e0f9a8b7c6d5e4f3021"


def test_the_secret_key_is_generated_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new", secret_key=None)
    key = secret_key(settings)
    assert len(key) == 64
    assert secret_key(settings) == key
    assert stat.S_IMODE((tmp_path / "new" / "secret_key").stat().st_mode) == 0o600


@pytest.mark.parametrize("key", [GOOD, "k7Jw_2pQx-9LmZr4TvBn8YcHs5Df3GaE", "correct horse battery staple and a cow"])
def test_a_secret_key_from_the_settings_is_used_and_not_written(tmp_path: Path, key: str) -> None:
    assert secret_key(Settings(home=tmp_path, secret_key=key)) == key
    assert not (tmp_path / "secret_key").exists()


def test_a_random_key_is_never_rejected(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for make in (secrets.token_hex, secrets.token_urlsafe):
        for _ in range(2_000):
            key = make(32)
            # set directly, since reading the environment 4,000 times would take most of the time
            assert secret_key(settings.model_copy(update={"secret_key": key})) == key


def test_an_empty_secret_key_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("")
    with pytest.raises(StackError, match="too short"):
        secret_key(Settings(home=tmp_path, secret_key=None))


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "set and empty"),
        (" " * 40, "set and empty"),
        ("secret", "fewer than 32"),
        ("dev", "fewer than 32"),
        (GOOD[:31], "fewer than 32"),
        ("x" * 64, "is repetitive"),
        ("0123" * 16, "is repetitive"),
        (GOOD[:20] * 3, "is repetitive"),
        ("changeme-changeme-now-and-for-ever", "well-known"),
        ("CHANGE_ME_in_production_or_be_sorry", "well-known"),
        ("please-replace-this-by-a-key-of-yours", "well-known"),
        ("your-secret-key-goes-in-this-place-ok", "well-known"),
        ("this is a default key for the server", "well-known"),
        ("192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf", "well-known"),
    ],
)
def test_a_guessable_key_is_rejected_with_advice_that_does_not_contain_it(
    tmp_path: Path, key: str, problem: str
) -> None:
    with pytest.raises(StackError, match=problem) as caught:
        secret_key(Settings(home=tmp_path, secret_key=key))
    assert "openssl rand" in caught.value.message
    assert len(key.strip()) < 7 or key not in caught.value.message
    assert not (tmp_path / "secret_key").exists()


def test_keys_for_different_purposes_reveal_nothing_of_each_other() -> None:
    made = {derived(GOOD, "one"), derived(GOOD, "two"), derived(GOOD[::-1], "one"), GOOD.encode()}
    assert len(made) == 4
