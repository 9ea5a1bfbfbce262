"""The key that signs sessions: from the settings, or made once and kept in RETLLM_HOME."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from retllm.errors import StackError
from retllm.settings import Settings

_BYTES = 32
# how long to wait for another process that has made the file and not yet written it
_PATIENCE_SECONDS = 2.0


def secret_key(settings: Settings) -> str:
    """The key in force; the first process of a home makes it, with only its owner able to read it.

    Raises:
        StackError: the file can't be made or read.
    """
    if settings.secret_key:
        return settings.secret_key
    path = settings.home_path / "secret_key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _made(path) or _read(path)
    except OSError as error:
        raise StackError(
            f"The secret key can't be kept in {path} ({error.strerror}): make the folder writable, "
            "or set RETLLM_SECRET_KEY."
        ) from error


def _made(path: Path) -> str | None:
    """A new key, or None if the file is there already (another process may have been first)."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    key = secrets.token_hex(_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(key)
    return key


def _read(path: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        key = path.read_text().strip()
        if len(key) >= 2 * _BYTES:
            return key
        if time.monotonic() > deadline:
            raise StackError(f"The secret key in {path} is too short: delete that file and start again.")
        time.sleep(0.05)
