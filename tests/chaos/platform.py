"""The whole platform as processes into which faults can be injected: servers, web server, dispatchers and workers.

Unlike `retllm up` it restarts its workers and dispatchers without a limit, since faults kill them often.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import sqlalchemy as sa
from tests.chaos.journal import Journal
from tests.chaos.models import EMBEDDER, SCORER

from retllm.db.enums import Role, UnitState
from retllm.db.jobs import Unit
from retllm.db.migrate import upgrade
from retllm.db.session import make_sessions, transaction
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.media.storage import Storage
from retllm.settings import Settings
from retllm.stack import commands
from retllm.stack.child import Child, ProcessSpec
from retllm.stack.leftovers import STACK_VARIABLE, StackRecord, created_at, record_path
from retllm.stack.network import is_ready
from retllm.stack.postgres import EmbeddedPostgres
from retllm.stack.redis import EmbeddedRedis, free_port

ROOT = Path(__file__).resolve().parents[2]
LEASE = 2.0
_WATCH = 0.1


@dataclass
class Forked:
    """A child of the forkserver: its kind, its name, and its process ID while it runs."""

    kind: str
    name: str
    pid: int = 0
    starts: int = 0
    suspended: bool = False
    env: dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether the process exists."""
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Platform:
    """A context manager: all processes run inside it, and none is left afterwards."""

    def __init__(
        self,
        home: Path,
        *,
        workers: int = 2,
        pause: float = 0.05,
        no_small_disk: str | None = "",
        attempts: int = 5,
        dispatch_seconds: float = 0.2,
    ) -> None:
        self.home = home
        self.orders = home / "orders"
        self.logs = home / "logs"
        self.storage_path = home / "media"
        self.no_small_disk = no_small_disk
        self.dispatch_seconds = dispatch_seconds
        self.postgres = EmbeddedPostgres(home)
        self.redis = EmbeddedRedis(home)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.servers: dict[str, Child] = {}
        names = [(kind, n) for kind in ("media", "embed", "score") for n in range(workers)]
        names += [("dispatch", n) for n in range(2)]
        self.forked = {f"{kind}{n}": Forked(kind, f"{kind}{n}") for kind, n in names}
        self.token = ""
        self._pause = pause
        self._attempts = attempts
        self._forkserver: subprocess.Popen[str] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._record = StackRecord(stack=uuid4().hex, pid=os.getpid(), created=created_at(os.getpid()))
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="platform", daemon=True)

    # start and stop

    def __enter__(self) -> Platform:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.orders.mkdir(parents=True)
        self.logs.mkdir(exist_ok=True)
        self._record.write(record_path(self.home))
        # ends the platform if this process is killed
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "retllm.stack.guardian", str(record_path(self.home)), self._record.stack],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._forkserver = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forkserver"],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.logs / "forkserver.log").open("ab"),
            text=True,
            start_new_session=True,
        )
        self.postgres.prepare()
        self.start_server("postgres")
        self.postgres.ensure_database()
        self.redis.prepare()
        self.start_server("redis")
        upgrade(self.postgres.url)
        self.sessions = make_sessions(self.postgres.url, pool_size=10)
        self.journal = Journal(self.sessions)
        self.journal.install()
        with transaction(self.sessions) as session:
            user = accounts.create_user(session, "chaos", "a-long-password", Role.ADMIN)
            _, self.token = tokens.issue(session, tokens.token_key(self.settings()), Actor.unlimited(user), "chaos")
        self.storage = Storage(f"file://{self.storage_path}")
        self.start_server("web")
        for one in self.forked.values():
            self._fork(one)
        self._watcher.start()

    def stop(self) -> None:
        """End all processes."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for one in self.forked.values():
            self._kill_group(one.pid)
        if self._forkserver is not None:
            assert self._forkserver.stdin is not None
            self._forkserver.stdin.close()
            self._kill_group(self._forkserver.pid)
            self._forkserver.wait(10)
        if hasattr(self, "sessions"):
            self.sessions.kw["bind"].dispose()
        for name in ("web", "redis", "postgres"):
            if name in self.servers:
                if name == "postgres":
                    self.servers[name].ask_to_stop()
                self.servers[name].stop(15 if name == "postgres" else 0)
        self.postgres.tidy()
        record_path(self.home).unlink(missing_ok=True)
        if self._guardian is not None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.close()
            self._guardian.wait(30)

    @staticmethod
    def _kill_group(pid: int) -> None:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def settings(self) -> Settings:
        """Return the settings of every process."""
        return Settings(**{key.removeprefix("RETLLM_").lower(): value for key, value in self._variables().items()})

    def _variables(self) -> dict[str, str]:
        return {
            "RETLLM_HOME": str(self.home),
            "RETLLM_STORAGE_URL": f"file://{self.storage_path}",
            "RETLLM_PORT": str(self.port),
            "RETLLM_EMBEDDER": EMBEDDER,
            "RETLLM_SCORER": SCORER,
            "RETLLM_LEASE_SECONDS": str(LEASE),
            "RETLLM_DISPATCH_SECONDS": str(self.dispatch_seconds),
            "RETLLM_REPUBLISH_SECONDS": "1",
            "RETLLM_BACKOFF_SECONDS": "0.2",
            # what is deleted is removed at once, so that its removal is cut off too
            "RETLLM_TRASH_DAYS": "0",
            "RETLLM_MAX_ATTEMPTS": str(self._attempts),
            "RETLLM_INDEX_UNIT_ITEMS": "4",
            "RETLLM_SCORE_UNIT_CANDIDATES": "3",
            "RETLLM_SECRET_KEY": "not a secret of anybody's, used by tests alone",
        }

    def environment(self) -> dict[str, str]:
        """Return the environment of every process."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RETLLM_", "CHAOS_"))}
        return (
            inherited
            | self._variables()
            | {
                "DATABASE_URL": self.postgres.url,
                "REDIS_URL": self.redis.url,
                "CHAOS_ORDERS": str(self.orders),
                "CHAOS_PAUSE": str(self._pause),
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "OMP_NUM_THREADS": "1",
                STACK_VARIABLE: self._record.stack,
            }
        )

    def start_server(self, name: str) -> None:
        """Start one of postgres, redis and web, and return when it answers."""
        self.servers[name] = child = Child(self._spec(name), 0)
        self._record.processes = [server.record for server in self.servers.values()]
        self._record.write(record_path(self.home))
        child.wait_ready()

    def _spec(self, name: str) -> ProcessSpec:
        log = self.logs / f"{name}.log"
        if name == "postgres":
            return self.postgres.spec(log, self.environment())
        if name == "redis":
            return self.redis.spec(log, self.environment())
        arguments = commands.python((*commands.WEB[:-1], "tests.chaos.web:app"))
        ready: Callable[[], bool] = lambda: is_ready("127.0.0.1", self.port)  # noqa: E731
        return ProcessSpec("web", arguments, log, self.environment(), ready=ready, cwd=ROOT)

    def _fork(self, one: Forked) -> None:
        assert self._forkserver is not None
        assert self._forkserver.stdin is not None
        assert self._forkserver.stdout is not None
        with self._lock:
            log = str(self.logs / f"{one.name}.log")
            arguments = [one.kind, f"{one.name}-{one.starts}", log, one.env]
            self._forkserver.stdin.write(json.dumps(arguments) + "\n")
            self._forkserver.stdin.flush()
            one.pid = int(self._forkserver.stdout.readline())
            one.starts += 1

    def _watch(self) -> None:
        while not self._stop.wait(_WATCH):
            for one in self.forked.values():
                if not one.suspended and not one.alive:
                    self._fork(one)

    # faults

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a forked process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.forked[name].pid, number)

    def restart(self, name: str, **env: str) -> None:
        """Kill a forked process and let it be started with another environment."""
        one = self.forked[name]
        one.suspended = True
        self.kill(name)
        while one.alive:
            time.sleep(0.01)
        one.env = env
        one.suspended = False

    def kill_server(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a server with a signal; ``start_server`` starts it again."""
        child = self.servers[name]
        os.kill(child.pid, number)
        child.stop(30)

    def order(self, moment: str, action: str = "end") -> Path:
        """Order the next process that reaches this moment to take an action; it deletes the returned file then."""
        path = self.orders / moment
        new = self.home / "order"
        new.write_text(action, "ascii")
        return new.replace(path)

    def stopped(self) -> list[str]:
        """Return the names of the stopped processes."""
        found = []
        for name, one in self.forked.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(one.pid).status() == psutil.STATUS_STOPPED:
                    found.append(name)
        return found

    @property
    def dispatchers(self) -> list[str]:
        """Names of the dispatchers."""
        return [name for name, one in self.forked.items() if one.kind == "dispatch"]

    @property
    def workers(self) -> list[str]:
        """Names of the workers."""
        return [name for name, one in self.forked.items() if one.kind != "dispatch"]

    def leased(self) -> list[tuple[UUID, str]]:
        """Return the IDs of the leased units and the process IDs of their workers."""
        with self.sessions() as session:
            query = sa.select(Unit.id, Unit.worker).where(Unit.state == UnitState.LEASED)
            return [(key, str(worker).rpartition(":")[2]) for key, worker in session.execute(query)]

    def held(self, excluding: Sequence[str] = ()) -> tuple[UUID, ...]:
        """Return the IDs of the units that other workers than ``excluding`` hold."""
        pids = {str(self.forked[name].pid) for name in excluding}
        return tuple(key for key, pid in self.leased() if pid not in pids)

    def waiting(self) -> int:
        """Return the number of units that can be claimed."""
        with self.sessions() as session:
            ready = sa.and_(Unit.state == UnitState.READY, Unit.run_after <= sa.func.clock_timestamp())
            return session.scalar(sa.select(sa.func.count()).where(ready)) or 0

    def busy(self) -> list[str]:
        """Return the names of the workers that hold a unit."""
        pids = {pid for _, pid in self.leased()}
        return [name for name in self.workers if str(self.forked[name].pid) in pids]

    def fenced(self) -> int:
        """Return how often a worker's result was fenced."""
        return sum(log.read_text("utf-8", "replace").count("unit.stale") for log in self.logs.glob("*.log"))
