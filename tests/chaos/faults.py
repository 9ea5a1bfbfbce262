"""The faults: each is injected into a scene while jobs are in flight."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import psutil
import sqlalchemy as sa
from tests.chaos import disk
from tests.chaos.client import crashing_picture, picture
from tests.chaos.platform import LEASE
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene, Skip

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit
from retllm.queue.notifications import Notifier
from retllm.queue.routing import Notification

Fault = Callable[[Scene], None]

# seconds after which a process that waits for a response detects a lost connection
_DETECTION_SECONDS = 15.0

_MOMENTS = (
    *("claim-before", "claim-after", "complete-before", "complete-after", "give_up-before", "give_up-after"),
    *("submit-before", "submit-after", "announce-before", "announce-after", "renew-before", "renew-after"),
)


def kill_workers(scene: Scene, times: int) -> None:
    """Kill one worker after the other with SIGKILL: in the middle of a unit or of a vector index, or at any moment."""
    for number in range(times):
        if number % 6 == 0:
            scene.interrupt_build()
        elif scene.chance.random() < 0.5:
            scene.interrupt_at("work")
        else:
            scene.inject(partial(scene.platform.kill, scene.victim()))
        scene.pause(0.05, 0.8)


def crash_at_commits(scene: Scene, rounds: int) -> None:
    """Crash a process right before and right after each kind of commit."""
    for moment in _MOMENTS * rounds:
        if moment.startswith("give_up"):
            # a unit is taken back only after its worker was lost
            scene.interrupt_at("work")
        if moment.startswith("renew"):
            # most units are done before their lease is renewed
            scene.interrupt_at("work", "slow")
        if not scene.interrupt_at(moment):
            scene.report(f"no process reached {moment}")
    for _ in range(rounds):
        scene.client.index_many()
        if not scene.interrupt_at("built"):
            scene.report("no process built an index")


def freeze_workers(scene: Scene, times: int) -> None:
    """Stop a worker for longer than its lease, and then let it continue."""
    for number in range(times):
        # both kinds of workers, and a dispatcher, at the same time
        scene.interrupt_at("work", "stop")
        if number % 2 == 0:
            scene.interrupt_removal("stop")
            scene.interrupt_build("stop")
        time.sleep(LEASE + 1)
        for name in scene.platform.stopped():
            scene.platform.kill(name, signal.SIGCONT)
        scene.pause(0.1, 0.5)


def freeze_in_transaction(scene: Scene, times: int) -> None:
    """Stop a worker while it locks its job; units that other workers lost meanwhile must be taken back nevertheless."""
    for _ in range(times):
        scene.interrupt_at("complete-before", "stop")
        time.sleep(LEASE)
        scene.interrupt_at("work")
        if not scene.reclaimed(scene.max_recovery, excluding=scene.platform.stopped()):
            scene.report(f"lost units were not taken back in {scene.max_recovery:.1f} s while a worker was stopped")
        for name in scene.platform.stopped():
            scene.platform.kill(name, signal.SIGCONT)


def kill_dispatchers(scene: Scene, times: int) -> None:
    """Kill the dispatchers with SIGKILL, together with a worker whose unit they have to take back."""
    for number in range(times):
        for name in scene.platform.dispatchers:
            scene.platform.kill(name)
        scene.interrupt_at("work")
        if number % 2 == 0:
            scene.interrupt_build(delete=True)
            scene.interrupt_removal()
        scene.pause(0.3, 1.2)


def kill_web(scene: Scene, times: int) -> None:
    """Kill the process of the web server when it has stored a file that no row names yet, and at any moment."""
    for _ in range(times):
        if not scene.interrupt_at("receive"):
            scene.report("the web server stored no file")
        scene.pause(1.0, 3.0)
        for child in psutil.Process(scene.platform.servers["web"].pid).children():
            scene.inject(child.kill)
        scene.pause(1.0, 3.0)


def restart_redis(scene: Scene, times: int) -> None:
    """Kill Redis and start it empty: every hint is lost."""
    for _ in range(times):
        scene.inject(partial(scene.platform.kill_server, "redis"))
        scene.pause(0.0, 1.5)
        scene.platform.start_server("redis")
        scene.fault_ended()
        scene.pause(0.5, 2.0)


def restart_postgres(scene: Scene, times: int) -> None:
    """End PostgreSQL at once, as in a crash, and start it; it recovers from its log."""
    for number in range(times):
        with scene.building() if number % 2 == 0 else nullcontext():
            scene.inject(partial(scene.platform.kill_server, "postgres", signal.SIGQUIT))
        scene.pause(0.0, 1.0)
        scene.platform.start_server("postgres")
        scene.fault_ended()
        scene.pause(0.5, 2.0)


@contextmanager
def _proxied(scene: Scene) -> Iterator[dict[str, Proxy]]:
    """Connect the workers to both servers through proxies."""
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
    """Hang the workers' connections to a server for longer than a lease; late packets then arrive, or never do."""
    with _proxied(scene) as paths:
        for number in range(times):
            path = paths["redis" if number % 3 == 2 else "postgres"]
            scene.wait_for_work()
            with scene.building() if number % 3 == 0 else nullcontext():
                scene.inject(path.hang)
            time.sleep(LEASE + 1)
            (path.reset if number % 2 else path.resume)()
            scene.fault_ended()
            scene.pause(0.5, 1.5)


def lose_network(scene: Scene, times: int) -> None:
    """Drop the workers' connections silently during requests: they get neither a response nor an end of stream."""
    scene.recovery_limit = _DETECTION_SECONDS + scene.max_recovery
    with _proxied(scene) as paths:
        for number in range(times):
            path = paths["redis" if number % 2 else "postgres"]
            scene.wait_for_work()
            with scene.building() if number % 4 == 0 else nullcontext():
                scene.inject(path.hang)
            time.sleep(1)
            try:
                path.drop_silently()
            except PermissionError as error:
                raise Skip(f"connections can't be dropped silently here ({error})") from error
            scene.fault_ended()
            server = "redis" if number % 2 else "postgres"
            idle = scene.idle_workers(scene.recovery_limit)
            if idle:
                scene.report(
                    f"{idle} claimed no unit in {scene.recovery_limit:.1f} s after the loss of connections to {server}"
                )


def announce_repeatedly(scene: Scene, times: int) -> None:
    """Announce every ready or leased unit again, several times."""
    notifier = Notifier(scene.platform.redis.url)
    for _ in range(times):
        with scene.platform.sessions() as session:
            query = sa.select(Unit.id, Unit.stage).where(Unit.state.in_([UnitState.READY, UnitState.LEASED]))
            open_units = [Notification(key, stage) for key, stage in session.execute(query)]
        scene.inject(partial(notifier.notify, open_units * 3))
        scene.pause(0.1, 0.3)


def fill_disk(scene: Scene) -> None:
    """Fill the disk of the pictures: an upload is rejected and leaves no file; with space again it is accepted."""
    disk.fill(scene)


def crash_on_picture(scene: Scene) -> None:
    """Index a picture that crashes every worker that opens it: only its item fails, with an error."""
    client = scene.client
    collection = client.collection()
    pictures = [picture((9, n, 200)) for n in range(5)]
    answer = client.upload_pictures(collection, *pictures[:2], crashing_picture(), *pictures[2:])
    crashing = str(answer.json()["outcomes"][2]["item_id"])
    scene.inject(lambda: None)
    job = client.wait(client.index(collection), 120)
    items = client.request("GET", f"/collections/{collection}/items").json()["items"]
    failed = [item["id"] for item in items if not item["indexed"]]
    if job["state"] != "partial" or failed != [crashing]:
        scene.report(f"the job is {job['state']}, and {len(failed)} items have no embedding")
    errors = [error["error"] for error in job["errors"]]
    if len(errors) != 1 or "lost" not in errors[0]:
        scene.report(f"the errors are {errors}")


def faults(long: bool) -> list[tuple[str, Fault, bool]]:
    """Return the name of each fault, a function that takes minutes (``long``) or seconds, and whether it needs load."""

    def times(many: int, few: int) -> int:
        return many if long else few

    return [
        ("worker killed", partial(kill_workers, times=times(50, 5)), True),
        ("crash at a commit", partial(crash_at_commits, rounds=times(2, 1)), True),
        ("worker stands still", partial(freeze_workers, times=times(6, 1)), True),
        ("worker stands still, job locked", partial(freeze_in_transaction, times=times(3, 1)), True),
        ("dispatchers killed", partial(kill_dispatchers, times=times(10, 2)), True),
        ("web server killed", partial(kill_web, times=times(5, 1)), True),
        ("redis comes back empty", partial(restart_redis, times=times(10, 2)), True),
        ("postgres ends at once", partial(restart_postgres, times=times(10, 2)), True),
        ("network hangs half-open", partial(hang_network, times=times(6, 2)), True),
        ("network forgets connections", partial(lose_network, times=times(6, 2)), True),
        ("several workers notified of a unit", partial(announce_repeatedly, times=times(40, 6)), True),
        ("disk full", fill_disk, False),
        ("picture kills its worker", crash_on_picture, False),
    ]
