"""The faults: each hurts a scene while jobs are in flight."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import psutil
import sqlalchemy as sa
from tests.chaos import disk
from tests.chaos.client import deadly, picture
from tests.chaos.platform import LEASE
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene, Skip

from retllm.db.enums import UnitState
from retllm.db.tables import Unit
from retllm.queue.notifications import Notifier

Fault = Callable[[Scene], None]

# seconds in which a process that waits for an answer finds out that nobody is there
_NOTICED = 15.0

_MOMENTS = (
    *("claim-before", "claim-after", "complete-before", "complete-after", "give_up-before", "give_up-after"),
    *("submit-before", "submit-after", "announce-before", "announce-after", "renew-before", "renew-after"),
)


def kill_workers(scene: Scene, times: int) -> None:
    """kill -9 of one worker after the other, half of them in the middle of a unit, half at any moment."""
    for _ in range(times):
        if scene.chance.random() < 0.5:
            scene.obeyed("work")
        else:
            scene.hurt(partial(scene.platform.kill, scene.victim()))
        scene.pause(0.05, 0.8)


def crash_at_commits(scene: Scene, rounds: int) -> None:
    """A sudden end right before and right after each kind of commit, of whoever comes there first."""
    for moment in _MOMENTS * rounds:
        if moment.startswith("give_up"):
            # somebody has to be lost before a unit is taken back
            scene.obeyed("work")
        if moment.startswith("renew"):
            # most units are done before their lease is renewed
            scene.obeyed("work", "slow")
        if not scene.obeyed(moment):
            scene.wrong(f"nobody came to {moment}")


def freeze_workers(scene: Scene, times: int) -> None:
    """A worker stands still for longer than its lease, and then goes on as if nothing had been."""
    for _ in range(times):
        scene.obeyed("work", "stop")
        time.sleep(LEASE + 1)
        for name in scene.platform.stopped():
            scene.platform.kill(name, signal.SIGCONT)
        scene.pause(0.1, 0.5)


def freeze_in_transaction(scene: Scene, times: int) -> None:
    """A worker stands still with its job locked; what others lost meanwhile must be taken up all the same."""
    for _ in range(times):
        scene.obeyed("complete-before", "stop")
        time.sleep(LEASE)
        scene.obeyed("work")
        if not scene.taken_back(scene.recovery, but=scene.platform.stopped()):
            scene.wrong(f"what another worker lost was not taken back in {scene.recovery:.1f} s while one stood still")
        for name in scene.platform.stopped():
            scene.platform.kill(name, signal.SIGCONT)


def kill_dispatchers(scene: Scene, times: int) -> None:
    """kill -9 of the dispatchers, together with a worker whose unit they have to take back."""
    for _ in range(times):
        for name in scene.platform.dispatchers:
            scene.platform.kill(name)
        scene.obeyed("work")
        scene.pause(0.3, 1.2)


def kill_web(scene: Scene, times: int) -> None:
    """kill -9 of the web server's process while it takes in jobs."""
    for _ in range(times):
        for child in psutil.Process(scene.platform.servers["web"].pid).children():
            scene.hurt(child.kill)
        scene.pause(1.0, 3.0)


def restart_redis(scene: Scene, times: int) -> None:
    """Redis is killed and comes back empty: every hint is gone."""
    for _ in range(times):
        scene.hurt(partial(scene.platform.kill_server, "redis"))
        scene.pause(0.0, 1.5)
        scene.platform.start_server("redis")
        scene.healed()
        scene.pause(0.5, 2.0)


def restart_postgres(scene: Scene, times: int) -> None:
    """PostgreSQL ends at once, as in a crash, and recovers from its log."""
    for _ in range(times):
        scene.hurt(partial(scene.platform.kill_server, "postgres", signal.SIGQUIT))
        scene.pause(0.0, 1.0)
        scene.platform.start_server("postgres")
        scene.healed()
        scene.pause(0.5, 2.0)


@contextmanager
def _behind(scene: Scene) -> Iterator[dict[str, Proxy]]:
    """The workers reach both servers through a path that can hang."""
    platform = scene.platform
    paths = {
        "postgres": Proxy.to_socket(str(platform.postgres.sockets / ".s.PGSQL.5432")),
        "redis": Proxy.to_port(platform.redis.port),
    }
    env = {
        "DATABASE_URL": f"postgresql+psycopg://postgres@127.0.0.1:{paths['postgres'].port}/retllm",
        "REDIS_URL": platform.redis.url.replace(f":{platform.redis.port}/", f":{paths['redis'].port}/"),
    }
    try:
        for name in platform.workers:
            platform.restart(name, **env)
        scene.wait_for_work()
        yield paths
    finally:
        for name in platform.workers:
            platform.restart(name)
        for path in paths.values():
            path.close()


def hang_network(scene: Scene, times: int) -> None:
    """The path of the workers to a server hangs half-open for longer than a lease; late packets arrive, or never."""
    with _behind(scene) as paths:
        for number in range(times):
            path = paths["redis" if number % 3 == 2 else "postgres"]
            scene.wait_for_work()
            scene.hurt(path.hang)
            time.sleep(LEASE + 1)
            (path.reset if number % 2 else path.resume)()
            scene.healed()
            scene.pause(0.5, 1.5)


def lose_network(scene: Scene, times: int) -> None:
    """The path forgets the workers' connections in the middle of their questions: no answer and no end ever comes."""
    scene.patience = _NOTICED + scene.recovery
    with _behind(scene) as paths:
        for number in range(times):
            path = paths["redis" if number % 2 else "postgres"]
            scene.wait_for_work()
            scene.hurt(path.hang)
            time.sleep(1)
            try:
                path.vanish()
            except PermissionError as error:
                raise Skip(f"no connection can be dropped without a word here ({error})") from error
            scene.healed()
            server = "redis" if number % 2 else "postgres"
            idle = scene.idle_since_blow(scene.patience)
            if idle:
                scene.wrong(
                    f"{idle} took no work in {scene.patience:.1f} s after they lost their connections to {server}"
                )


def tell_twice(scene: Scene, times: int) -> None:
    """Every unit that waits or is held is announced again to all, many times over."""
    notifier = Notifier(scene.platform.redis.url)
    for _ in range(times):
        with scene.platform.sessions() as session:
            query = sa.select(Unit.id, Unit.stage).where(Unit.state.in_([UnitState.READY, UnitState.LEASED]))
            there = [(key, stage) for key, stage in session.execute(query)]
        scene.hurt(partial(notifier.notify, there * 3))
        scene.pause(0.1, 0.3)


def fill_disk(scene: Scene) -> None:
    """The disk of the pictures is full: an upload is refused as such and leaves nothing; with room it goes in."""
    disk.fill(scene)


def one_deadly_picture(scene: Scene) -> None:
    """A picture ends every worker that opens it: it fails alone, with a reason, and its neighbours are done."""
    client = scene.client
    collection = client.collection()
    pictures = [picture((9, n, 200)) for n in range(5)]
    answer = client.upload_pictures(collection, *pictures[:2], deadly(), *pictures[2:])
    killer = str(answer.json()["outcomes"][2]["item_id"])
    scene.hurt(lambda: None)
    job = client.wait(client.index(collection), 120)
    items = client.ask("GET", f"/collections/{collection}/items").json()["items"]
    failed = [item["id"] for item in items if not item["indexed"]]
    if job["state"] != "partial" or failed != [killer]:
        scene.wrong(f"the job is {job['state']}, and {len(failed)} items have no vector")
    reasons = [error["error"] for error in job["errors"]]
    if len(reasons) != 1 or "lost" not in reasons[0]:
        scene.wrong(f"the reasons are {reasons}")


def faults(whole: bool) -> list[tuple[str, Fault, bool]]:
    """Every fault by its name, in a form that takes minutes (``whole``) or seconds; and whether under load."""

    def times(many: int, few: int) -> int:
        return many if whole else few

    return [
        ("worker killed", partial(kill_workers, times=times(50, 6)), True),
        ("crash at a commit", partial(crash_at_commits, rounds=times(2, 1)), True),
        ("worker stands still", partial(freeze_workers, times=times(6, 1)), True),
        ("worker stands still, job locked", partial(freeze_in_transaction, times=times(3, 1)), True),
        ("dispatchers killed", partial(kill_dispatchers, times=times(10, 2)), True),
        ("web server killed", partial(kill_web, times=times(5, 1)), True),
        ("redis comes back empty", partial(restart_redis, times=times(10, 2)), True),
        ("postgres ends at once", partial(restart_postgres, times=times(10, 2)), True),
        ("network hangs half-open", partial(hang_network, times=times(6, 2)), True),
        ("network forgets connections", partial(lose_network, times=times(6, 2)), True),
        ("unit told to several", partial(tell_twice, times=times(40, 10)), True),
        ("disk full", fill_disk, False),
        ("picture kills its worker", one_deadly_picture, False),
    ]
