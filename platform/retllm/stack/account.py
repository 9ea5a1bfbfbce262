"""The system account that PostgreSQL runs under: PostgreSQL refuses to run as root.

A normal user runs it as itself. Root runs it as the account ``pgserver``, which is made when it is missing, and that
account must be able to pass through the folders above the data and above PostgreSQL's programs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import structlog

from retllm.errors import StackError

log = structlog.get_logger(__name__)
ACCOUNT_NAME = "pgserver"


@dataclass(frozen=True)
class Account:
    """A system account by its numbers."""

    uid: int
    gid: int


def postgres_account() -> Account | None:
    """The account to switch to for PostgreSQL, or None where the present one will do.

    Raises StackError when this process is root and the account can't be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        entry = _make_account()
    return Account(entry.pw_uid, entry.pw_gid)


def _make_account() -> pwd.struct_passwd:
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    advice = f"run as a normal user, make an account named {ACCOUNT_NAME}, or set DATABASE_URL"
    if program is None:
        raise StackError(f"PostgreSQL can't run as root and there is no `useradd` to make an account for it: {advice}.")
    made = subprocess.run(  # noqa: S603 - a fixed program and arguments
        [program, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return pwd.getpwnam(ACCOUNT_NAME)  # another process may have made it in the meantime
    except KeyError:
        raise StackError(
            f"PostgreSQL can't run as root and `useradd` made no account for it ({made.stderr.strip()}): {advice}."
        ) from None


def make_passable(path: Path) -> None:
    """Let every account pass through (not list, not read) the folders above `path`; for root only."""
    for folder in path.resolve().parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
            log.warning("folder made passable for PostgreSQL's account", folder=str(folder), account=ACCOUNT_NAME)
