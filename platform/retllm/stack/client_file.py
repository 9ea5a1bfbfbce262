"""RETLLM_HOME/client.json: the address and the token by which the command line finds the local stack."""

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

TOKEN_NAME = "command line"  # noqa: S105 - its name, no secret


def client_path(home: Path) -> Path:
    """Where the file is."""
    return home / "client.json"


def read_client(home: Path) -> dict[str, str]:
    """``{"url": ..., "token": ...}`` of the stack on `home`; empty where there is no file that can be read."""
    try:
        found = json.loads(client_path(home).read_text("utf-8"))
        return {"url": str(found["url"]), "token": str(found["token"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_client(session: Session, home: Path, key: bytes, user: User, url: str) -> None:
    """Keep the file current: this start's address, and a token of `user`, a new one where the old is not valid.

    `key` is that of the tokens' digests. The token may do all that `user` may, until it is revoked: the command line of
    the one who runs the stack deletes collections too.
    """
    token = read_client(home).get("token", "")
    try:
        tokens.holder(session, key, token)
    except Unauthorized:
        _, token = tokens.issue(session, key, Actor.unlimited(user), TOKEN_NAME, scope=TokenScope.MANAGE)
    path = client_path(home)
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"url": url, "token": token}, file)
    beside.replace(path)
