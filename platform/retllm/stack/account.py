"""The system account of PostgreSQL, which refuses to run as root.

A normal user runs PostgreSQL under its own account. Root runs it under the account ``pgserver``, which is created if
necessary and needs search permission on the parent folders of the data and of PostgreSQL's programs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from retllm.errors import StackError

ACCOUNT_NAME = "pgserver"


@dataclass(frozen=True)
class Account:
    """The user and group id of a system account."""

    uid: int
    gid: int


def postgres_account() -> Account | None:
    """Return the account to switch to for PostgreSQL, or None to keep the current one.

    Raises:
        StackError: this process runs as root and the account can't be created.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        entry = _create_account()
    return Account(entry.pw_uid, entry.pw_gid)


def _create_account() -> pwd.struct_passwd:
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    advice = f"run as a normal user, create an account named {ACCOUNT_NAME}, or set DATABASE_URL"
    if program is None:
        raise StackError(
            f"PostgreSQL can't run as root and there is no `useradd` to create an account for it: {advice}."
        )
    result = subprocess.run(  # noqa: S603 - a fixed program and arguments
        [program, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return pwd.getpwnam(ACCOUNT_NAME)  # another process may have created it meanwhile
    except KeyError:
        raise StackError(
            f"PostgreSQL can't run as root and `useradd` created no account for it ({result.stderr.strip()}): {advice}."
        ) from None


def allow_search(path: Path) -> list[Path]:
    """Give every account search permission on the parent folders of `path`, for root only; return those without it."""
    changed = []
    for folder in path.resolve().parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
            changed.append(folder)
    return changed
