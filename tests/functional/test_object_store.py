"""Two hosts with one database, Redis and bucket, reached by TCP with passwords, but no common disk: both have workers.

Where PgBouncer is installed, both hosts reach the database through it.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.functional.remote_scorers import client
from tests.object_store import object_store, stored
from tests.poolers import PROGRAM, pooler
from tests.waiting import wait_until

from retllm.cli.client import Api
from retllm.demo.world import write_collection
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm.stack.child import Child
from retllm.stack.commands import QUEUES
from retllm.stack.postgres import DATABASE, EmbeddedPostgres, connect
from retllm.stack.redis import free_port

pytestmark = pytest.mark.timeout(900)

ROLE = "platform"
CONNECTIONS = 4
PROCESSES = 2 + 1 + len(QUEUES)


@contextmanager
def database(home: Path) -> Iterator[str]:
    """A server that listens on TCP and asks for passwords (SCRAM); yields the address of a database of an own role."""
    server, port, password = EmbeddedPostgres(home, durable=False), free_port(), secrets.token_hex(16)
    server.prepare()
    (server.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    spec = server.spec(home / "postgres.log", os.environ)
    argv = [part.replace("listen_addresses=", "listen_addresses=127.0.0.1") for part in spec.argv]
    local = sa.make_url(server.url).set(database="postgres").update_query_dict({"port": str(port)})

    def answers() -> bool:
        try:
            connect(local.render_as_string(hide_password=False)).close()
        except psycopg.OperationalError:
            return False
        return True

    child = Child(dataclasses.replace(spec, argv=(*argv, "-c", f"port={port}"), ready=answers), 0)
    try:
        child.wait_ready()
        with connect(local.render_as_string(hide_password=False)) as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        # pgvector is not trusted: an administrator adds it
        with connect(local.set(database=DATABASE).render_as_string(hide_password=False)) as connection:
            connection.execute("CREATE EXTENSION vector")
        yield f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{DATABASE}"
    finally:
        child.ask_to_stop()
        child.stop(30)
        server.tidy()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket."""
    with object_store() as buckets:
        yield buckets()


@dataclasses.dataclass(frozen=True)
class Hosts:
    """A client of the first host, and the addresses of what both share."""

    api: Api
    database_url: str
    redis_url: str


@pytest.fixture(scope="module")
def hosts(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The first host has the web server, the dispatcher and a worker, the second one workers of all kinds."""
    # short, since a socket lies in it
    folder = tmp_path_factory.mktemp("hosts")
    common: dict[str, Any] = {"storage_url": f"s3://{bucket}/media", "preset": "demo", "torch_threads": 1}
    common["database_connections"] = CONNECTIONS
    with ExitStack() as stack:
        common["database_url"] = url = stack.enter_context(database(folder / "db"))
        if PROGRAM is not None:
            common["database_url"] = stack.enter_context(pooler(url, connections=CONNECTIONS))
            common["database_direct_url"] = url
        parts = {"redis", "migrate", "web", "dispatch", "media"}
        first = stack.enter_context(LocalStack(Settings(home=folder / "1", redis_url=None, port=0, **common), parts))
        stack.enter_context(LocalStack(Settings(home=folder / "2", redis_url=first.redis_url, **common), QUEUES))
        yield Hosts(client(first), url, first.redis_url)
        assert not list(folder.rglob("*.png"))


def test_nobody_without_the_passwords_reaches_what_the_hosts_share(hosts: Hosts) -> None:
    unknown = sa.make_url(hosts.database_url).set(password="guessed").render_as_string(hide_password=False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(unknown)
    port = sa.make_url(hosts.redis_url).port
    assert port is not None
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0)).ping()


def test_what_one_host_receives_the_other_one_reads_and_nothing_is_left_of_what_is_deleted(
    hosts: Hosts, bucket: str, tmp_path: Path
) -> None:
    api = hosts.api
    serving = [queue for worker in api.get("/system/workers")["workers"] for queue in worker["queues"]]
    assert serving.count("media") == 2
    # the lines of both hosts can be read at one of them
    logged = api.get("/system/logs?process=media")["processes"]
    assert sum(process.startswith("media@") for process in logged) >= 2
    queries = write_collection(tmp_path, 1, 4715)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for query in queries:
            archive.write(tmp_path / query.file, query.file)
    collection = api.call("POST", "/collections", json={"name": "scenes"})["id"]
    files = [("file", ("scenes.zip", packed.getvalue()))]
    job = api.call("POST", f"/collections/{collection}/items", files=files)["job_id"]
    assert api.watch(job, lambda _: None)["state"] == "succeeded"
    originals = [key for key in stored(bucket) if key.endswith("/original")]
    assert len(originals) == len(queries)
    assert not [key for key in stored(bucket) if "/uploads/" in key or "/tmp/" in key]

    picture = ("picture", ("query.png", (tmp_path / queries[0].file).read_bytes()))
    search = api.call(
        "POST", f"/collections/{collection}/searches", files=[picture], data={"query": json.dumps({"k": 4})}
    )["id"]
    assert api.watch(search, lambda _: None)["state"] == "succeeded"
    results = api.get(f"/searches/{search}")["candidates"]
    assert len(results) == 4
    assert all(row["score"] is not None for row in results)
    nearest = max(results, key=lambda row: row["similarity"])
    assert nearest["name"].endswith(queries[0].file)

    api.call("DELETE", f"/collections/{collection}")
    assert set(originals) < set(stored(bucket))
    # and for good from the trash
    api.call("DELETE", f"/trash/{collection}")
    wait_until(lambda: not stored(bucket), "files of a deleted collection are left")
    with connect(hosts.database_url) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user"
        ).fetchone() or (0,)
    # this one too
    assert int(str(count)) <= PROCESSES * CONNECTIONS + 1
