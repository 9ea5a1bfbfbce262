"""What a load leaves behind: threads, connections, files, memory and broken rules of a running platform."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import sqlalchemy as sa

from retllm.db.session import Sessions
from retllm.media.storage import get_storage
from retllm.queue.audit import violations
from retllm.settings import Settings
from retllm.stack import LocalStack

_MEBIBYTE = 1 << 20
# what Python and its libraries keep after work, beyond what they had when idle: caches, arenas
_SLACK = {"threads": 0, "connections": 0, "open_files": 8, "temporary_files": 0, "memory_mib": 256}
# each worker keeps up to so many connections for its threads, and needs as many only now and then
_POOL = 5
_WORKERS = ("embed", "media", "score", "dispatch")


@dataclass(frozen=True)
class Resources:
    """What the processes of a stack hold; memory in MiB, that of the workers without their decoders' pictures."""

    threads: int
    connections: int
    open_files: int
    temporary_files: int
    memory_mib: int
    files_by_kind: Counter[str] = field(default_factory=Counter)


def resources(stack: LocalStack, sessions: Sessions) -> Resources:
    """Return what the web server, the dispatcher and the workers hold now."""
    names = [name for name in stack.processes if name not in ("postgres", "redis", "migrate")]
    held = {name: psutil.Process(stack.processes[name]) for name in names}
    # decoders come and go
    children = [
        (name, one)
        for name, main in held.items()
        for one in main.children(recursive=True)
        if "decoder.py" not in _command(one)
    ]
    named = [*held.items(), *children]
    found = [one for _, one in named]
    kinds = Counter(f"{name}: {kind}" for name, one in named for kind in _files(one))
    with sessions() as session:
        connections = session.scalar(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        )
    return Resources(
        threads=sum(one.num_threads() for one in found),
        connections=int(connections or 0),
        open_files=kinds.total(),
        files_by_kind=kinds,
        temporary_files=sum(path.is_file() for path in (stack.home / "tmp").rglob("*")),
        memory_mib=sum(one.memory_info().rss for one in found) // _MEBIBYTE,
    )


def _files(process: psutil.Process) -> Iterator[str]:
    """Yield what each open file of a process is: a path, or socket, pipe or anon_inode."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(OSError):
            yield str(link.readlink()).partition(":[")[0]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "decoder.py"


def grown(before: Resources, stack: LocalStack, sessions: Sessions, seconds: float) -> list[str]:
    """Wait until nothing is left that was not there before; return what still is after ``seconds``."""
    deadline = time.monotonic() + seconds
    pools = _POOL * sum(name.startswith(_WORKERS) for name in stack.processes)
    slack = _SLACK | {"connections": pools, "open_files": _SLACK["open_files"] + pools}
    while True:
        after = resources(stack, sessions)
        more = [
            f"{name}: {getattr(before, name)} before, {now} after"
            for name, most in slack.items()
            if (now := getattr(after, name)) > getattr(before, name) + most
        ]
        if not more or time.monotonic() > deadline:
            files = after.files_by_kind - before.files_by_kind
            return [*more, *(f"more open files: {number} x {kind}" for kind, number in files.items())] if more else []
        time.sleep(1)


def broken_rules(sessions: Sessions, settings: Settings) -> list[str]:
    """Return the rules of the audit that rows or files break."""
    return [str(one) for one in violations(sessions, get_storage(settings), quiet=True)]
