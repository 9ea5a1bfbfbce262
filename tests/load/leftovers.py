"""What a load leaves behind: threads, connections, files, memory and broken rules of a running platform."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import psutil
import sqlalchemy as sa

from retllm.db.session import Sessions
from retllm.media.storage import get_storage
from retllm.queue.audit import violations
from retllm.settings import Settings
from retllm.stack import LocalStack

_MEBIBYTE = 1 << 20
# what Python and its libraries keep after work, beyond what they had when idle: caches, arenas, pools
_SLACK = {"threads": 0, "connections": 0, "open_files": 8, "temporary_files": 0, "memory_mib": 256}


@dataclass(frozen=True)
class Resources:
    """What the processes of a stack hold; memory in MiB, that of the workers without their decoders' pictures."""

    threads: int
    connections: int
    open_files: int
    temporary_files: int
    memory_mib: int


def resources(stack: LocalStack, sessions: Sessions) -> Resources:
    """Return what the web server, the dispatcher and the workers hold now."""
    names = [name for name in stack.processes if name not in ("postgres", "redis", "migrate")]
    held = [psutil.Process(stack.processes[name]) for name in names]
    # decoders come and go
    found = held + [one for main in held for one in main.children(recursive=True) if "decoder.py" not in _command(one)]
    with sessions() as session:
        connections = session.scalar(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        )
    return Resources(
        threads=sum(one.num_threads() for one in found),
        connections=int(connections or 0),
        open_files=sum(one.num_fds() for one in found),
        temporary_files=sum(path.is_file() for path in (stack.home / "tmp").rglob("*")),
        memory_mib=sum(one.memory_info().rss for one in found) // _MEBIBYTE,
    )


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "decoder.py"


def grown(before: Resources, stack: LocalStack, sessions: Sessions, seconds: float) -> list[str]:
    """Wait until nothing is left that was not there before; return what still is after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        after = resources(stack, sessions)
        more = [
            f"{name}: {getattr(before, name)} before, {now} after"
            for name, now in asdict(after).items()
            if now > getattr(before, name) + _SLACK[name]
        ]
        if not more or time.monotonic() > deadline:
            return more
        time.sleep(1)


def broken_rules(sessions: Sessions, settings: Settings) -> list[str]:
    """Return the rules of the audit that rows or files break."""
    return [str(one) for one in violations(sessions, get_storage(settings), quiet=True)]
