"""Files and folders of the platform are for its own account only, unless RETLLM_UMASK says otherwise."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from retllm.settings import Settings


def keep_private(settings: Settings) -> None:
    """Create files and folders of this process, and of those that it starts, with the permissions of the settings."""
    os.umask(_mask(settings))


def excess(folder: Path, settings: Settings) -> int:
    """Return the permissions that a folder has and should not have; 0 if there is no such folder."""
    try:
        return stat.S_IMODE(folder.stat().st_mode) & _mask(settings)
    except FileNotFoundError:
        return 0


def close(folder: Path, settings: Settings) -> None:
    """Take the permissions that it should not have from a folder of this account, which also closes what is in it."""
    if excess(folder, settings) and folder.stat().st_uid == os.geteuid():
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~_mask(settings))


def _mask(settings: Settings) -> int:
    return int(settings.umask, 8)
