"""RETLLM_HOME/client.json: URL and token with which the command line uses the local stack."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sqlalchemy.orm import Session

from retllm.db.enums import TokenScope
from retllm.db.tables import User
from retllm.errors import Unauthorized
from retllm.identity import tokens
from retllm.identity.actor import Actor

TOKEN_NAME = "command line"  # noqa: S105 - not a secret


def client_path(home: Path) -> Path:
    """Return the path of the file."""
    return home / "client.json"


def read_client(home: Path) -> dict[str, str]:
    """Return ``{"url": ..., "token": ...}`` of the stack on `home`; empty without a valid file."""
    try:
        found = json.loads(client_path(home).read_text("utf-8"))
        return {"url": str(found["url"]), "token": str(found["token"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_client(session: Session, home: Path, key: bytes, user: User, url: str) -> None:
    """Write the URL and a token of `user` to the file; a valid token in the file is kept.

    `key` is the key of the token digests. The token has all permissions of `user`, since the command line can also
    delete collections, and is valid until it is revoked.
    """
    token = read_client(home).get("token", "")
    try:
        tokens.holder(session, key, token)
    except Unauthorized:
        _, token = tokens.issue(session, key, Actor.unlimited(user), TOKEN_NAME, scope=TokenScope.MANAGE)
    path = client_path(home)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"url": url, "token": token}, file)
    temporary.replace(path)
