"""The local stack as one object, for `retllm up`, the demo and the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import filelock
from pydantic_core import to_json

from retllm.errors import StackError
from retllm.settings import Settings
from retllm.stack import commands, postgres, redis
from retllm.stack.account import ACCOUNT_NAME
from retllm.stack.child import Child, ProcessSpec
from retllm.stack.leftovers import STACK_VARIABLE, StackRecord, created_at, end_stack, record_path
from retllm.stack.network import base_url, choose_port
from retllm.stack.stages import platform_stages
from retllm.stack.supervisor import Supervisor

SERVERS = frozenset({"postgres", "redis"})
PLATFORM = frozenset({"migrate", "web", "dispatch", *commands.QUEUES})
PARTS = SERVERS | PLATFORM


class Stages(Protocol):
    """Returns the processes to start after the servers; see `retllm.stack.stages.platform_stages`."""

    def __call__(
        self,
        settings: Settings,
        parts: Collection[str],
        env: Mapping[str, str],
        port: int,
        log_path: Callable[[str], Path],
        run: Path,
    ) -> Sequence[Sequence[ProcessSpec]]:
        """Return the stages in the order of their start."""


class LocalStack:
    """The embedded servers and the platform's processes on one folder, RETLLM_HOME.

    `parts` selects what is started, by default everything; a test that needs only a database uses ``{"postgres"}``. A
    server whose URL is set (`settings.database_url`, `settings.redis_url`) is checked and used, never started.
    `stages` returns the processes to start after the servers, by default the platform's own. `durable=False` makes the
    embedded database faster, but unsafe against power loss. `notify` is called with a short text after each step.

    Use it as a context manager, or call `start` and `stop`; it can be started again after a stop.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Collection[str] = PARTS,
        *,
        stages: Stages = platform_stages,
        durable: bool = True,
        notify: Callable[[str], None] = lambda _: None,
        first_wait: float = 0.5,
    ) -> None:
        unknown = set(parts) - PARTS
        if unknown:
            raise ValueError(f"unknown parts of the stack: {sorted(unknown)}")
        self.settings = settings
        self.parts = frozenset(parts)
        self.home: Path = settings.home_path
        self.failure: StackError | None = None
        self.ended = threading.Event()
        self._stages = stages
        self._durable = durable
        self._notify = notify
        self._first_wait = first_wait
        self._port = settings.port
        self._url: str | None = None
        self._database_url: str | None = None
        self._redis_url: str | None = None
        self._lock: filelock.BaseFileLock | None = None
        self._supervisor: Supervisor | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._record: StackRecord | None = None
        self._postgres: postgres.EmbeddedPostgres | None = None

    @property
    def url(self) -> str:
        """The URL of the web server."""
        return _require(self._url, "web server")

    @property
    def database_url(self) -> str:
        """The URL of the database for SQLAlchemy."""
        return _require(self._database_url, "database")

    @property
    def redis_url(self) -> str:
        """The URL of the Redis server."""
        return _require(self._redis_url, "Redis server")

    @property
    def processes(self) -> dict[str, int]:
        """The process ids of the children, by name."""
        children = self._supervisor.children if self._supervisor else {}
        return {name: child.pid for name, child in children.items()}

    @property
    def logs(self) -> Path:
        """The folder of the logs, one file for each process."""
        return self.home / "logs"

    def kill(self, name: str, number: int) -> None:
        """Send signal `number` to the child `name`; if it dies, it is restarted."""
        os.kill(self.processes[name], number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the parts in order; each must be ready before the next one starts.

        Raises:
            StackError: a part can't be started; nothing is left running.
        """
        self.failure = None
        self._lock_home()
        try:
            if "web" in self.parts:
                self._port = choose_port(self.settings.host, self.settings.port)
            self._supervisor = Supervisor(self._changed, self._failed, self._first_wait)
            self._check_external()
            self._start_guardian()
            if self._database_url is None and "postgres" in self.parts:
                self._start_postgres()
            if self._redis_url is None and "redis" in self.parts:
                self._start_redis()
            self._start_platform()
            self._write_addresses()
            self._supervisor.watch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything that was started and unlock the folder; does nothing if nothing is running."""
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        if self._record is not None:
            end_stack(self._record)  # processes left by children
            self._record_path.unlink(missing_ok=True)
            self._record = None
        if self._postgres is not None:
            self._postgres.tidy()
            self._postgres = None
        if self._guardian is not None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.close()
            self._guardian.wait()
            self._guardian = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._url = self._database_url = self._redis_url = None
        self.ended.clear()

    def _write_addresses(self) -> None:
        assert self._record is not None
        self._record.url, self._record.database_url, self._record.redis_url = (
            self._url,
            self._database_url,
            self._redis_url,
        )
        self._record.write(self._record_path)

    def interrupt(self) -> None:
        """Abort a start in progress and set `ended`; safe to call from a signal handler."""
        if self._supervisor is not None:
            self._supervisor.interrupt()
        self.ended.set()

    def hurry(self) -> None:
        """Stop without waiting for work in progress; safe to call from a signal handler."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    @property
    def _record_path(self) -> Path:
        return record_path(self.home)

    def _lock_home(self) -> None:
        """Create the folder, lock it for this process, and end processes that a killed stack left."""
        run = self._record_path.parent
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            run.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"The folder {self.home} can't be created ({error.strerror}): set RETLLM_HOME to a writable folder."
            ) from error
        lock = filelock.FileLock(run / "lock", timeout=0)
        previous = StackRecord.read(self._record_path)
        try:
            lock.acquire()
        except filelock.Timeout:
            owner = f" (process {previous.pid})" if previous else ""
            raise StackError(
                f"Another stack{owner} is running on {self.home}: stop it, or set RETLLM_HOME to another folder."
            ) from None
        except OSError as error:
            raise StackError(
                f"The folder {self.home} is not writable ({error.strerror}): set RETLLM_HOME to another folder."
            ) from error
        self._lock = lock
        # read again: the other stack may have ended before this one got the lock
        previous = StackRecord.read(self._record_path)
        if previous is not None:
            ended = end_stack(previous)
            if ended:
                self._notify(f"{', '.join(ended)} of a killed stack ended")
        self._record = StackRecord(stack=uuid.uuid4().hex, pid=os.getpid(), created=created_at(os.getpid()))
        self._record.write(self._record_path)

    def _start_guardian(self) -> None:
        assert self._record is not None
        self._guardian = subprocess.Popen(  # noqa: S603 - the stack's own program
            [sys.executable, "-m", "retllm.stack.guardian", str(self._record_path), self._record.stack],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def _changed(self, children: list[Child]) -> None:
        if self._record is not None:
            self._record.processes = [child.record for child in children]
            self._record.write(self._record_path)

    def _failed(self, failure: StackError) -> None:
        self.failure = failure
        self.ended.set()

    def _stage(self, *specs: ProcessSpec) -> None:
        assert self._supervisor is not None
        if specs:
            self._supervisor.start_stage(specs)

    def log_path(self, name: str) -> Path:
        """Return the path of the log of process `name`."""
        return self.logs / f"{name}.log"

    def _fresh_log(self, name: str) -> Path:
        """Return the path of a new log of `name`; a previous one is renamed with the suffix ``.1``."""
        path = self.log_path(name)
        with contextlib.suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + ".1"))
        return path

    def environment(self) -> dict[str, str]:
        """Return the environment of the children: that of this process with the stack's settings and URLs."""
        assert self._record is not None
        env = dict(os.environ)
        settings = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        settings |= {"home": self.home, "port": self._port, "database_url": None, "redis_url": None}
        settings["database_direct_url"] = self.settings.direct_url
        for name, value in settings.items():
            variable = f"RETLLM_{name.upper()}"
            env.pop(variable, None)
            if value is not None:
                # settings parse tuples from JSON
                env[variable] = to_json(value).decode() if isinstance(value, tuple) else str(value)
        for name, url in (("DATABASE_URL", self._database_url), ("REDIS_URL", self._redis_url)):
            env.pop(name, None)
            if url:
                env[name] = url
        env[STACK_VARIABLE] = self._record.stack
        return env

    def _check_external(self) -> None:
        """Check the configured external servers before anything is started."""
        if self.settings.database_url:
            self._database_url = postgres.normalise_url(self.settings.database_url)
            self._notify(f"{postgres.check(self._database_url)} at {postgres.redacted(self._database_url)}")
        if self.settings.direct_url:
            postgres.check(self.settings.direct_url, "RETLLM_DATABASE_DIRECT_URL")
        if self.settings.redis_url:
            self._redis_url = self.settings.redis_url
            self._notify(f"{redis.check(self._redis_url)} at {redis.redacted(self._redis_url)}")

    def _start_postgres(self) -> None:
        server = self._postgres = postgres.EmbeddedPostgres(self.home, durable=self._durable)
        for folder in server.prepare():
            self._notify(f"every account may pass through {folder} now, as that of PostgreSQL ({ACCOUNT_NAME}) has to")
        self._stage(server.spec(self._fresh_log("postgres"), self.environment()))
        server.ensure_database()
        self._database_url = server.url
        self._notify(f"{postgres.check(server.url)} in {server.data}")

    def _start_redis(self) -> None:
        server = redis.EmbeddedRedis(self.home)
        server.prepare()
        self._stage(server.spec(self._fresh_log("redis"), self.environment()))
        self._redis_url = server.url
        self._notify(f"{redis.check(server.url)} at {redis.redacted(server.url)}")

    def _start_platform(self) -> None:
        stages = self._stages(
            self.settings, self.parts, self.environment(), self._port, self._fresh_log, self._record_path.parent
        )
        for stage in stages:
            self._stage(*stage)
            self._notify(", ".join(spec.name for spec in stage) + (" done" if stage[0].once else " ready"))
        if "web" in self.parts:
            self._url = base_url(self.settings.host, self._port)


def _require(value: str | None, what: str) -> str:
    if value is None:
        raise StackError(f"This stack has no {what}.")
    return value
