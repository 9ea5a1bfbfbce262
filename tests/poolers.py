"""PgBouncer in transaction mode before a server of the tests; it is not installed with the project."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa

from retllm.stack.account import postgres_account
from retllm.stack.postgres import connect
from retllm.stack.redis import free_port

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
"""Its path; None if it is not installed."""
_START_SECONDS = 30
_CONFIGURATION = """\
[databases]
* = host={host} port={server_port}
[pgbouncer]
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {auth}
auth_file = {home}/users
"""


@contextmanager
def pooler(url: str, *, connections: int) -> Iterator[str]:
    """Run it before the server at ``url``, with so many connections to it; yield the address of the same database.

    It asks for a password if the server does. Nothing else is changed of what it is by default.
    """
    assert PROGRAM is not None
    server = sa.make_url(url)
    account, port = postgres_account(), free_port()
    # not in pytest's own folder, which other accounts can't read
    with tempfile.TemporaryDirectory(prefix="retllm-pooler-") as folder, Path(folder, "log").open("wb") as log:
        home = Path(folder)
        home.chmod(0o755)
        configuration = _CONFIGURATION.format(
            host=server.host or server.query["host"],
            server_port=server.port or 5432,
            connections=connections,
            port=port,
            auth="scram-sha-256" if server.password else "trust",
            home=home,
        )
        (home / "pgbouncer.ini").write_text(configuration)
        (home / "users").write_text(f'"{server.username}" "{server.password or ""}"\n')
        process = subprocess.Popen(
            [PROGRAM, str(home / "pgbouncer.ini")],
            stdout=log,
            stderr=log,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        address = server.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(address):
                tail = (home / "log").read_text()
                assert process.poll() is None, tail
                assert time.monotonic() < deadline, tail
                time.sleep(0.02)
            yield address
        finally:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        connect(address).close()
    except psycopg.OperationalError:
        return False
    return True
