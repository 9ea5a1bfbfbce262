"""No secret of a running platform is disclosed in a log, a response, the database, command output or a process title.

Every secret is a canary: a word that occurs nowhere else. The test provokes many kinds of errors and then searches all
output for the canaries.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis
import sqlalchemy as sa
from tests.chaos.client import picture
from tests.functional.forked import Forks
from tests.scoring_server import refusing_server

from retllm.model_settings import ExtraScorer
from retllm.operations.log_sender import PROCESSES
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm.stack.child import Child
from retllm.stack.redis import EmbeddedRedis

CANARIES = {
    "database": "canary-of-the-database-4f1c",
    "redis": "canary-of-redis-83ad",
    "storage": "canary-of-the-storage-b7e2",
    "secret key": "canary-of-the-key-5a90c3d17e264f88b1d0",
    "metrics": "canary-of-the-metrics-2d6e",
    "scorer": "canary-of-the-scorer-c8d1",
    "extra scorer": "canary-of-an-extra-scorer-6e0b",
    "password": "canary-of-a-password-77c4",
    "wrong password": "canary-of-a-wrong-password-1b0f",
    "wrong token": "rlm_canary-of-a-wrong-token-9e31",
    "wrong link": "rll_canary-of-a-wrong-link-2f60",
}
#: files that store a secret for processes of the same account
KEEPERS = {"client.json", "stack.json", "valkey.conf"}
NAME = "keeper"
_PATIENCE_SECONDS = 240.0


def _unused_port() -> int:
    """Return a port that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _with_scorer(settings: Settings, root: str) -> Settings:
    """Return the settings with two scorers on a server that refuses their keys and quotes them."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    extra = ExtraScorer(scorer=f"openai+{root}/v1#canary/extra", key=CANARIES["extra scorer"])
    return Settings(
        **given, scorer=f"openai+{root}/v1#canary/model", scorer_key=CANARIES["scorer"], extra_scorers=(extra,)
    )


@dataclass
class Scene:
    """A stack whose secrets are canaries, and its collected output."""

    stack: LocalStack
    forks: Forks
    redis: Child
    database_url: str
    output: list[tuple[str, str]] = field(default_factory=list)
    canaries: dict[str, str] = field(default_factory=lambda: dict(CANARIES))

    @property
    def storage_url(self) -> str:
        return str(self.stack.settings.storage_url)

    def client(self, **headers: str) -> httpx.Client:
        """Return a client whose responses are recorded."""

        def record(answer: httpx.Response) -> None:
            answer.read()
            where = f"{answer.request.method} {answer.request.url.path} {answer.status_code}"
            self.output.append((where, f"{answer.headers}\n{answer.text}"))

        return httpx.Client(base_url=self.stack.url, headers=headers, timeout=60, event_hooks={"response": [record]})

    def command(
        self, *arguments: str, stdin: str = "", secret_output: bool = False, **changes: str | None
    ) -> CompletedProcess[str]:
        """Run `retllm ...` with the settings of the stack, and record its output unless that is a secret itself."""
        env = self.stack.environment() | {"RETLLM_PORT": "0"}
        for name, value in changes.items():
            env.pop(name, None)
            if value is not None:
                env[name] = value
        done = self.forks.command(arguments, env, stdin)
        self.output.append((" ".join(arguments), done.stderr if secret_output else done.stdout + done.stderr))
        return done

    def leaks(self, text: str) -> list[str]:
        """Return the names of the canaries in a text."""
        return [name for name, canary in self.canaries.items() if canary in text]


@pytest.fixture(scope="module")
def scene(servers: LocalStack, module_database: str, forks: Forks) -> Iterator[Scene]:
    """Web server, dispatcher and workers that log everything, with servers whose passwords are canaries."""
    with tempfile.TemporaryDirectory(prefix="retllm-canary-") as folder:
        home = Path(folder) / "home"
        server = EmbeddedRedis(Path(folder))
        server._password = CANARIES["redis"]
        server.prepare()
        child = Child(server.spec(Path(folder) / "redis.log", dict(os.environ)), 0)
        child.wait_ready()
        # the embedded server accepts every connection on its socket, with any password
        database = sa.make_url(module_database).set(password=CANARIES["database"])
        settings = Settings(
            home=home,
            database_url=database.render_as_string(hide_password=False),
            redis_url=server.url,
            storage_url=f"ftp://storekeeper:{CANARIES['storage']}@127.0.0.1:{_unused_port()}/media",
            secret_key=CANARIES["secret key"],
            metrics_token=CANARIES["metrics"],
            port=0,
            preset="demo",
            torch_threads=1,
            log_level="DEBUG",
            max_attempts=2,
            backoff_seconds=0.1,
            lease_seconds=5,
        )
        try:
            with (
                refusing_server() as scorer,
                LocalStack(
                    _with_scorer(settings, scorer), parts={"migrate", "web", "dispatch", "embed", "score"}
                ) as stack,
            ):
                yield Scene(stack, forks, child, module_database)
        finally:
            child.ask_to_stop()
            child.stop(10)


def _create_account(scene: Scene) -> str:
    """Create an account whose password is a canary, and a token, which becomes one."""
    created = scene.command("user", "create", NAME, "--role", "admin", "--password-stdin", stdin=CANARIES["password"])
    assert created.returncode == 0, created.stderr
    scene.command("user", "create", NAME, "--password-stdin", "--json", stdin=CANARIES["password"])
    created = scene.command("token", "create", NAME, "--scope", "manage", "--json", secret_output=True)
    token = str(json.loads(created.stdout)["token"])
    scene.canaries["token"] = token.removeprefix("rlm_")
    scene.command("token", "list", NAME, "--json")
    return token


def _send_invalid_credentials(scene: Scene) -> None:
    """Send wrong passwords, wrong tokens and malformed requests."""
    with scene.client() as anonymous:
        page = anonymous.get("/login").text
        csrf = page.split('name="csrf_token"')[1].split('value="')[1].split('"')[0]
        for name in (NAME, "nobody"):
            anonymous.post("/login", data={"csrf_token": csrf, "name": name, "password": CANARIES["wrong password"]})
        anonymous.post("/login", data={"name": NAME, "password": CANARIES["wrong password"]})
        anonymous.get("/metrics")
        anonymous.get("/readyz")
        anonymous.get(f"/s/{CANARIES['wrong link']}")
        anonymous.get(f"/s/{CANARIES['wrong link']}/no/such/page")
    with scene.client(Authorization=f"Bearer {CANARIES['wrong token']}") as wrong:
        wrong.get("/api/v1/collections")
        wrong.get("/metrics")
    with scene.client(Authorization=f"Bearer {CANARIES['metrics']}") as scraper:
        assert scraper.get("/metrics").status_code == 200


def _send_requests(scene: Scene, token: str) -> uuid.UUID:
    """Send valid and invalid requests, and pictures to an unreachable storage; return the ID of a collection."""
    with scene.client(Authorization=f"Bearer {token}") as api:
        made = api.post("/api/v1/collections", json={"name": "Canaries"})
        assert made.status_code == 201, made.text
        key = uuid.UUID(made.json()["id"])
        secret = CANARIES["wrong password"]
        api.post("/api/v1/users", json={"name": "", "password": secret, "role": "none"})
        api.post("/api/v1/users", json={"name": NAME, "password": secret, "role": "viewer"})
        api.post("/api/v1/users", content=json.dumps({"password": secret})[:-1])
        files = [("file", ("a.png", picture((1, 2, 3))))]
        assert api.post(f"/api/v1/collections/{key}/items", files=files).status_code >= 500
        api.post(f"/api/v1/collections/{key}/searches", data={"text": "x"}, files={"picture": files[0][1]})
        for path in ("/api/v1/nothing", f"/api/v1/items/{uuid.uuid4()}", "/api/v1/me", "/api/v1/system/workers"):
            api.get(path)
        api.put("/api/v1/collections")
        return key


def _fail_a_job(scene: Scene, token: str, key: uuid.UUID) -> None:
    """Index a picture on the unreachable storage, so that its unit ends as dead."""
    with psycopg.connect(_plain(scene.database_url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO items (id, collection_id, kind, state, name, content_sha256, version, media_type, width, "
            "height, size_bytes, picture_key, thumbnail_key) VALUES (%s, %s, 'image', 'ready', 'a.png', %s, 1, "
            "'image/png', 9, 9, 99, 'items/00/a/original', 'items/00/a/thumbnail')",
            (uuid.uuid4(), key, "0" * 64),
        )
    with scene.client(Authorization=f"Bearer {token}") as api:
        started = api.post(f"/api/v1/collections/{key}/index", json={})
        assert started.status_code == 202, started.text
        job = started.json()["id"]
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while api.get(f"/api/v1/jobs/{job}").json()["state"] not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, "the job does not end"
            time.sleep(0.3)
        for path in (f"jobs/{job}", f"jobs/{job}/attempts", "system/dead-units", f"collections/{key}/items"):
            text = api.get(f"/api/v1/{path}").text
        assert "a.png" in text
        items = api.get(f"/api/v1/collections/{key}/items").json()["items"]
        for kind in ("picture", "thumbnail"):
            assert api.get(f"/api/v1/items/{items[0]['id']}/{kind}").status_code >= 500


def _break_commands(scene: Scene) -> None:
    """Run the commands with unreachable servers and invalid settings."""
    wrong = f"127.0.0.1:{_unused_port()}"
    database = f"postgresql://keeper:{CANARIES['database']}@{wrong}/retllm"
    redis = f"redis://:{CANARIES['redis']}@{wrong}/0"
    scene.command("doctor")
    scene.command("doctor", "--audit", "--json")
    scene.command("collections", "list", "--json", RETLLM_TOKEN=CANARIES["wrong token"], RETLLM_URL=scene.stack.url)
    other = {"RETLLM_HOME": str(scene.stack.home / "other")}
    for arguments in (("doctor", "--json"), ("migrate",), ("up", "--json"), ("user", "list", "--json")):
        done = scene.command(*arguments, DATABASE_URL=database, REDIS_URL=redis, **other)
        assert done.returncode != 0, arguments
    for arguments in (("doctor",), ("up",)):
        scene.command(*arguments, REDIS_URL=redis, **other)
    # invalid addresses
    for url in (database.replace("postgresql", "mysql"), database.replace(wrong, "[::"), f"{database}:x:y"):
        scene.command("migrate", DATABASE_URL=url, **other)
        scene.command("doctor", "--json", DATABASE_URL=url, REDIS_URL=url, RETLLM_STORAGE_URL=url, **other)
    scene.command("doctor", RETLLM_EXTRA_EMBEDDERS="local-dir:/a/same,local-dir:/b/same")
    for entry in (
        f'{{"scorer": "x", "key": "{CANARIES["extra scorer"]}", "modus": 1}}',
        f'[{{"key": "{CANARIES["extra scorer"]}"',
    ):
        scene.command("doctor", RETLLM_EXTRA_SCORERS=entry)
    scene.command("doctor", RETLLM_METRICS_TOKEN=CANARIES["metrics"], RETLLM_PORT="none")
    for module in ("retllm_web.wsgi", "retllm_workers.app"):
        for changes in (
            {"DATABASE_URL": database + ":x", "REDIS_URL": redis + ":x"},
            {"RETLLM_PORT": "none"},
            {"RETLLM_SECRET_KEY": CANARIES["wrong password"]},
        ):
            done = scene.forks.module(module, scene.stack.environment() | changes)
            scene.output.append((f"{module} {sorted(changes)}", done.stdout + done.stderr))


def _wait_until_noticed(stack: LocalStack) -> None:
    """Wait until the dispatcher and the heartbeats of the workers have logged that they lost the database."""
    messages = {"dispatch": "dispatcher.round_failed", "embed": "heartbeat.failed", "score": "heartbeat.failed"}
    before = {name: _log(stack, name).count(message) for name, message in messages.items()}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while silent := [name for name, message in messages.items() if _log(stack, name).count(message) == before[name]]:
        assert time.monotonic() < deadline, f"{silent} have not logged the loss of the database"
        time.sleep(0.1)


def _log(stack: LocalStack, name: str) -> str:
    return (stack.home / "logs" / f"{name}.log").read_text("utf-8", "replace")


def _read_lines(scene: Scene, token: str) -> None:
    """Read the lines that the processes gave to Redis, as they lie there and as administrators see them."""
    lines = redis.Redis.from_url(scene.stack.redis_url)
    keys = list(lines.scan_iter(f"{PROCESSES}:*"))
    assert {key.decode().split(":")[2].partition("@")[0] for key in keys} >= {"web", "dispatch", "score"}
    scene.output += [(str(key), repr(lines.xrange(key))) for key in keys]
    with scene.client(Authorization=f"Bearer {token}") as api:
        listed = api.get("/api/v1/system/logs?limit=200").text
    assert '"web@' in listed
    scene.output.append(("system/logs", listed))


def _stop_servers(scene: Scene, token: str) -> None:
    """Stop Redis and then block the database while the platform runs."""
    scene.redis.stop(0)
    with scene.client(Authorization=f"Bearer {token}") as api:
        api.post("/api/v1/collections", json={"name": "Without Redis"})
        api.get("/api/v1/system/queues")
        api.get("/readyz")
        name = sa.make_url(scene.database_url).database
        with psycopg.connect(_plain(scene.database_url, "postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                api.get("/readyz")
                assert api.get("/api/v1/collections").status_code == 503
                api.get("/login")
                api.get("/metrics")
                _wait_until_noticed(scene.stack)
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def _plain(url: str, database: str | None = None) -> str:
    parsed = sa.make_url(url)
    parsed = parsed.set(drivername="postgresql", database=database or parsed.database)
    return parsed.render_as_string(hide_password=False)


def _rows(url: str) -> Iterator[tuple[str, str]]:
    """Generate every row of every table as text."""
    with psycopg.connect(_plain(url)) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f'SELECT t::text FROM "{table}" t').fetchall():
                yield f"table {table}", row


def _titles(stack: LocalStack) -> Iterator[tuple[str, str]]:
    for name, pid in stack.processes.items():
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            yield f"process {name}", " ".join(one.cmdline()) + " " + one.name()


def _files(home: Path) -> Iterator[Path]:
    yield from (path for path in home.rglob("*") if path.is_file())


@pytest.mark.timeout(1200)
def test_no_secret_is_disclosed(scene: Scene) -> None:
    token = _create_account(scene)
    _send_invalid_credentials(scene)
    key = _send_requests(scene, token)
    _fail_a_job(scene, token, key)
    _read_lines(scene, token)
    titles = list(_titles(scene.stack))
    assert len(titles) >= 4
    _break_commands(scene)
    _stop_servers(scene, token)
    scene.stack.kill("web", signal.SIGTERM)

    logs = [(path.name, path.read_text("utf-8", "replace")) for path in _files(scene.stack.home) if ".log" in path.name]
    rows = list(_rows(scene.database_url))
    all_text = "".join(text for _, text in (*logs, *rows, *scene.output))
    # the provoked errors were logged
    for evidence in ("database_unavailable", "picture", "can't be reached", "refuses the key", "Traceback", "keeper"):
        assert evidence in all_text, evidence
    for where, text in (*scene.output, *logs, *rows, *titles):
        assert scene.leaks(text) == [], f"{where}:\n{_around(scene, text)}"
    for path in _files(scene.stack.home):
        if scene.leaks(path.read_text("utf-8", "replace")):
            assert path.name in KEEPERS, path
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def _around(scene: Scene, text: str) -> Sequence[Any]:
    return [
        text[max(0, text.index(canary) - 300) : text.index(canary) + 100]
        for canary in scene.canaries.values()
        if canary in text
    ]
