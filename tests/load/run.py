"""``python -m tests.load.run LOCUST``: many people at work on one platform, with slow connections and killed workers.

Prints how long pages take beside the same pages of an idle platform, and what is left afterwards. The exit status is 1
if a request failed, a rule was broken, an account waited for another's work, or something was left. Times are printed
and not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import sqlalchemy as sa
from tests.load.leftovers import broken_rules, grown, resources

from retllm.bench.processor_time import seconds_of_each
from retllm.db.enums import JobState, Stage
from retllm.db.jobs import Job, Unit
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings
from retllm.stack import LocalStack

PASSWORD = "a long password of nobody"
WORKERS = ("media", "embed", "score")
_KILL_SECONDS = 40.0
_WORK_SECONDS = 1800.0
_SETTLE_SECONDS = 180.0
_HEAD = b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Half: "
_BODY = b"POST /login HTTP/1.1\r\nHost: here\r\nContent-Type: text/plain\r\nContent-Length: 999\r\n\r\nn"


@dataclass
class Person:
    """An account with a collection, and a client of the API."""

    name: str
    user_id: UUID
    token: str
    collection: str
    client: httpx.Client

    def search(self, text: str) -> UUID:
        """Submit a search and return its job."""
        answer = self.client.post(f"/collections/{self.collection}/searches", json={"text": text, "k": 2})
        return UUID(answer.raise_for_status().json()["id"])


@dataclass
class Site:
    """A running platform with accounts."""

    stack: LocalStack
    settings: Settings
    sessions: Sessions
    people: list[Person] = field(default_factory=list)
    clients: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, closing: ExitStack) -> Person:
        """Add an account with a collection of four texts."""
        with transaction(self.sessions) as session:
            user = accounts.create_user(session, name, PASSWORD)
            session.flush()
            _, token = tokens.issue(session, tokens.token_key(self.settings), Actor.unlimited(user), "load")
        headers = {"Authorization": f"Bearer {token}"}
        client = closing.enter_context(httpx.Client(base_url=f"{self.stack.url}/api/v1", headers=headers, timeout=120))
        collection = client.post("/collections", json={"name": f"of {name}"}).raise_for_status().json()["id"]
        files = [("file", (f"{n}.txt", f"{name} saw {n} red circles".encode())) for n in range(4)]
        client.post(f"/collections/{collection}/items", params={"wait": "60"}, files=files).raise_for_status()
        self.people.append(Person(name, user.id, token, str(collection), client))
        return self.people[-1]

    def await_work(self) -> None:
        """Wait until no job is open.

        Raises:
            TimeoutError: some are, for very long.
        """
        count = sa.select(sa.func.count()).where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        deadline = time.monotonic() + _WORK_SECONDS
        while True:
            with self.sessions() as session:
                left = session.scalar(count)
            if not left:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left} jobs are still open")
            time.sleep(1)


@contextmanager
def site(home: Path, people: int) -> Iterator[Site]:
    """Start a platform with so many accounts."""
    settings = Settings(
        home=home, database_url=None, redis_url=None, port=0, preset="demo", torch_threads=1, lease_seconds=5
    )
    with LocalStack(settings) as stack, ExitStack() as closing:
        sessions = make_sessions(stack.database_url)
        closing.callback(sessions.kw["bind"].dispose)
        made = Site(stack, settings, sessions)
        for number in range(people):
            made.add(f"person{number}", closing)
        made.await_work()
        yield made


def overtaken(made: Site, flood: Person, other: Person, searches: int) -> int:
    """Submit many searches of one account, then one of another.

    Returns:
        How many units of the first a stage claimed while that of the other was ready; the larger number of both stages.
    """
    for number in range(searches):
        flood.search(f"many {number}")
    job = other.search("one red circle")
    deadline = time.monotonic() + _WORK_SECONDS
    while other.client.get(f"/jobs/{job}").raise_for_status().json()["finished_at"] is None:
        if time.monotonic() > deadline:
            raise TimeoutError("the search of the other account was not done")
        time.sleep(0.1)
    most = 0
    with made.sessions() as session:
        for stage in (Stage.COARSE, Stage.FINE):
            own = session.execute(
                sa.select(sa.func.min(Unit.created_at), sa.func.min(Unit.started_at)).filter_by(job_id=job, stage=stage)
            ).one()
            between = sa.select(sa.func.count()).where(
                Unit.stage == stage, Unit.user_id == flood.user_id, Unit.started_at > own[0], Unit.started_at < own[1]
            )
            most = max(most, session.scalar(between) or 0)
    return most


@dataclass
class Helpers:
    """What happens beside the people, each in a thread, until they are done."""

    made: Site
    over: threading.Event = field(default_factory=threading.Event)
    kills: int = 0
    reopened: int = 0
    slowest: dict[str, float] = field(default_factory=lambda: {"/healthz": 0.0, "/readyz": 0.0})
    errors: list[str] = field(default_factory=list)
    processor_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def running(self, *tasks: Callable[[], None]) -> Iterator[None]:
        """Run tasks in threads."""
        threads = [threading.Thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def kill_workers(self) -> None:
        """Kill one worker after the other; the stack starts them again."""
        for worker in self._each(_KILL_SECONDS / len(WORKERS), WORKERS):
            names = [name for name in self.made.stack.processes if name.startswith(worker)]
            with suppress(ProcessLookupError):
                self.made.stack.kill(random.choice(names), signal.SIGKILL)
                self.kills += 1

    def count_processor_time(self) -> None:
        """Add up the processor time of the platform's processes, also of those that end meanwhile."""
        first = latest = seconds_of_each(self.made.stack.processes)
        for _ in self._each(1.0, ("",)):
            latest = latest | seconds_of_each(self.made.stack.processes | self.made.clients)
        for (name, pid), seconds in latest.items():
            self.processor_seconds[name] += seconds - first.get((name, pid), 0)

    def hold_connections(self, number: int) -> None:
        """Keep connections open that send half a request; those that the server ends are opened again."""
        where = urlsplit(self.made.stack.url)
        held: dict[int, socket.socket] = {}
        while not self.over.wait(1):
            for place in range(number):
                one = held.get(place)
                try:
                    if one is not None and one.send(b"x", socket.MSG_DONTWAIT):
                        continue
                except OSError:
                    held.pop(place).close()
                    self.reopened += 1
                with suppress(OSError):
                    held[place] = socket.create_connection((where.hostname or "", where.port or 0), timeout=10)
                    held[place].sendall(_HEAD if place % 2 else _BODY)
        for one in held.values():
            one.close()

    def ask_health(self) -> None:
        """Ask whether the server lives and is ready."""
        # one client: to make another takes longer than an answer
        with httpx.Client(base_url=self.made.stack.url, timeout=60, headers={"Connection": "close"}) as client:
            for path in self._each(0.5, tuple(self.slowest)):
                began = time.monotonic()
                try:
                    answer = client.get(path)
                    if answer.is_error:
                        self.errors.append(f"{path} answered {answer.status_code}")
                except httpx.HTTPError as error:
                    self.errors.append(f"{path}: {error!r}")
                self.slowest[path] = max(self.slowest[path], time.monotonic() - began)

    def _each(self, seconds: float, values: Sequence[str]) -> Iterator[str]:
        """Yield the values in turns, one in so many seconds, until it is over."""
        while True:
            for value in values:
                if self.over.wait(seconds):
                    return
                yield value


def people_at_work(
    locust: Path, made: Site, folder: Path, people: int, seconds: int, pace: float
) -> list[dict[str, Any]]:
    """Run Locust; return its statistics by name of request."""
    scene = folder / "scene.json"
    listed = [
        {"name": one.name, "password": PASSWORD, "token": one.token, "collection": one.collection}
        for one in made.people
    ]
    scene.write_text(json.dumps({"accounts": listed}), "utf-8")
    options = ["--users", str(people), "--spawn-rate", "10", "--run-time", f"{seconds}s", "--stop-timeout", "60"]
    with subprocess.Popen(
        [
            locust,
            "--headless",
            "--json",
            "-f",
            str(Path(__file__).with_name("people.py")),
            "--host",
            made.stack.url,
            *options,
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LOAD_SCENE": str(scene), "LOAD_PACE": str(pace)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / "locust.log").open("ab"),
    ) as running:
        made.clients["people"] = running.pid
        printed = running.communicate()[0]
    found: list[dict[str, Any]] = json.loads(printed[printed.index(b"[") :])
    return found


def percentile(times: dict[str, int], share: float) -> float:
    """Return a percentile of Locust's histogram, in ms."""
    left = share * sum(times.values())
    for time_ms, count in sorted((float(key), count) for key, count in times.items()):
        left -= count
        if left <= 0:
            return time_ms
    return 0.0


def table(idle: Sequence[dict[str, Any]], loaded: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the comparison: requests, p50 and p95 of both, and the ratio of the p95."""
    before = {one["name"]: one["response_times"] for one in idle}
    lines = ["| request | number | idle: p95, ms | median, ms | p95, ms | x idle |", "|---|---|---|---|---|---|"]
    for one in sorted(loaded, key=lambda one: one["name"]):
        slow, alone = percentile(one["response_times"], 0.95), percentile(before.get(one["name"], {}), 0.95)
        ratio = f"{slow / alone:.1f}" if alone else "-"
        middle = percentile(one["response_times"], 0.5)
        lines.append(f"| {one['name']} | {one['num_requests']} | {alone:.0f} | {middle:.0f} | {slow:.0f} | {ratio} |")
    return lines


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("locust", type=Path, help="the program of Locust")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--slow", type=int, default=500, help="slow connections")
    parser.add_argument("--searches", type=int, default=1000, help="of the account that does not care for others")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retllm-load-") as name:
        folder = Path(name)
        with site(folder / "home", min(options.people, 40)) as made:
            return run(made, folder, options)


def run(made: Site, folder: Path, options: argparse.Namespace) -> int:
    """Measure an idle and a loaded platform, and what is left."""
    locust = options.locust.absolute()
    some = max(10, options.seconds // 10)
    idle = people_at_work(locust, made, folder, 1, some, pace=0.02)
    # fills pools and caches, which keep what they have
    people_at_work(locust, made, folder, options.people, some, pace=1)
    made.await_work()
    before = resources(made.stack, made.sessions)
    waited = overtaken(made, made.people[0], made.people[1], options.searches)
    helpers = Helpers(made)
    with helpers.running(
        helpers.kill_workers,
        lambda: helpers.hold_connections(options.slow),
        helpers.ask_health,
        helpers.count_processor_time,
    ):
        loaded = people_at_work(locust, made, folder, options.people, options.seconds, pace=1)
    print("\n".join(table(idle, loaded)))
    used = sorted(helpers.processor_seconds.items(), key=lambda one: -one[1])
    print("processor time, s: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in used))
    print("slowest answers: " + ", ".join(f"{path} {seconds:.2f} s" for path, seconds in helpers.slowest.items()))
    print(f"{helpers.kills} workers killed; {helpers.reopened} slow connections ended by the server and opened again")
    made.await_work()
    if any(one["num_failures"] for one in loaded):
        # the report of errors is at the end
        print((folder / "locust.log").read_text("utf-8")[-3_000:])
    problems = helpers.errors + [
        f"{one['num_failures']} failures: {one['name']}" for one in loaded if one["num_failures"]
    ]
    if waited > len(WORKERS):
        problems.append(f"{waited} units of another account's later jobs came first")
    problems += grown(before, made.stack, made.sessions, _SETTLE_SECONDS)
    problems += broken_rules(made.sessions, made.settings)
    print("\n".join(problems) or "nothing failed, nothing is left")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
