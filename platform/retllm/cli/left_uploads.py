"""Uploads that a command of this machine left open when it was killed: the next one closes them, and goes on.

Each running command has a file in a folder, named after its upload, which it keeps locked. The system releases the lock
when the process ends, however it does. So a file without a lock is that of a command that does not go on, and two
commands that run at the same time leave each other's uploads alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retllm.cli.client import Api, RequestRejected

_FOLDER = "uploads"
# names of this machine, which mean the same server
_HERE = ("127.0.0.1", "::1", "localhost")
_REASON = "Not sent: the command that sent the upload ended before; run it again to send the rest."


@contextmanager
def noted(api: Api, upload_id: str) -> Iterator[None]:
    """Note an upload while this process sends files to it; the note stays if that fails."""
    if api.home is None:
        yield
        return
    # whatever a server calls it, it is a file of this folder
    path = api.home / _FOLDER / Path(upload_id).name
    handle = None
    # without a note, the server closes an upload that is left after a while
    with suppress(OSError):
        for folder in (api.home, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, _server(api))
    try:
        yield
        if handle is not None:
            path.unlink(missing_ok=True)
    finally:
        if handle is not None:
            os.close(handle)


def close_left(api: Api) -> list[str]:
    """Close the uploads to this server that commands on this machine left open; return their keys."""
    closed = []
    for path in sorted((api.home / _FOLDER).glob("*")) if api.home is not None else ():
        # another command runs, or has closed it
        with suppress(OSError), path.open("rb") as note:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
            server = note.read()
            if server and server != _server(api):
                continue
            # one without a server was made by a command that was killed in between
            if server and _close(api, path.name):
                closed.append(path.name)
            path.unlink()
    return closed


def _close(api: Api, upload_id: str) -> bool:
    """Close an upload; return whether it was open."""
    # it may be deleted, or that of an account that this one knows nothing of
    with suppress(RequestRejected):
        if api.get(f"/uploads/{upload_id}")["closed_at"] is None:
            api.call("POST", f"/uploads/{upload_id}/close", json={"reason": _REASON})
            return True
    return False


def _server(api: Api) -> bytes:
    address = api.http.base_url
    return str(address.copy_with(host="localhost") if address.host in _HERE else address).encode()
