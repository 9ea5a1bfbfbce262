"""Nothing is claimed from or lost in a paused queue; waiting units are counted in the database."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from retllm.db.enums import Stage, UnitState
from retllm.db.jobs import Unit
from retllm.db.session import snapshot, transaction
from retllm.errors import NotFound
from retllm.indexing.submit import submit_index
from retllm.operations import queues
from retllm.queue import claim as claims
from retllm.queue.dispatcher import Dispatcher
from retllm.queue.routing import ONE_SCORER, Notification


class Recorder:
    """A notifier that records the units."""

    def __init__(self) -> None:
        self.notified: list[UUID] = []

    def notify(self, units) -> int:
        taken = [unit_id for unit_id, *_ in units]
        self.notified += taken
        return len(taken)

    def depth(self, queue: str) -> int:
        return 0


def _job(world, texts: int = 4) -> UUID:
    world.add_texts(*[f"text {n}" for n in range(texts)])
    with transaction(world.sessions) as session:
        return submit_index(session, world.user, world.collection_id, world.settings).job.id


def _pause(world, queue: str, reason: str = "") -> bool:
    with transaction(world.sessions) as session:
        return queues.pause(session, ONE_SCORER, world.user, queue, reason)


def _resume(world, queue: str):
    with transaction(world.sessions) as session:
        return queues.resume(session, ONE_SCORER, queue)


def _depths(world) -> dict[str, queues.Queue]:
    with transaction(world.sessions) as session:
        return {one.name: one for one in queues.depths(session, ONE_SCORER)}


@pytest.mark.parametrize("after", range(5))
def test_a_unit_that_is_given_back_meanwhile_is_counted_once(world, after: int) -> None:
    """As that of a server that is away, which a worker tries and gives back all the time."""
    job_id = _job(world)
    claim = world.must_claim(world.units(job_id)[0].id, "w1")
    engine, left = world.sessions.kw["bind"], [after]

    def give_back(*_: object) -> None:
        left[0] -= 1
        if left[0] == -1:
            claims.release(world.sessions, claim)

    with snapshot(world.sessions) as session:
        sa.event.listen(engine, "before_cursor_execute", give_back)
        try:
            (depth,) = [one for one in queues.depths(session, ONE_SCORER) if one.name == "embed"]
        finally:
            sa.event.remove(engine, "before_cursor_execute", give_back)
    assert depth.waiting + depth.later + depth.at_work == len(world.units(job_id))


def test_units_of_a_paused_queue_can_be_claimed_only_after_it_is_resumed(world) -> None:
    job_id = _job(world)
    first, second = world.units(job_id)
    world.must_claim(first.id, "w1")
    assert _pause(world, "embed", "the GPU is hot")
    assert world.claim(second.id) is None
    assert world.units(job_id)[1].state is UnitState.READY
    assert world.units(job_id)[1].attempt == 0, "a refused claim does not count as an attempt"
    was_paused, units = _resume(world, "embed")
    assert was_paused
    assert units == [Notification(second.id, Stage.EMBED)], (
        "announced again immediately, since its notification was consumed"
    )
    assert world.must_claim(second.id).attempt == 1


def test_pausing_a_queue_does_not_affect_the_others(world) -> None:
    job_id = _job(world)
    _pause(world, "score")
    _pause(world, "query")
    world.must_claim(world.units(job_id)[0].id)


def test_the_dispatcher_announces_no_units_of_a_paused_queue(world) -> None:
    _job(world)
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(announced_at=None))
    recorder = Recorder()
    dispatcher = Dispatcher(world.sessions, recorder, world.settings)
    _pause(world, "embed")
    assert dispatcher.round() == 0
    _resume(world, "embed")
    with transaction(world.sessions) as session:
        session.execute(sa.update(Unit).values(announced_at=None))
    assert dispatcher.round() == 2


def test_a_second_pause_does_not_change_the_user_and_the_reason(world) -> None:
    assert _pause(world, "embed", "first")
    assert not _pause(world, "embed", "second")
    with transaction(world.sessions) as session:
        (pause,) = queues.paused(session).values()
    assert (pause.queue, pause.by, pause.reason) == ("embed", "ada", "first")
    assert _resume(world, "embed") == (True, [])
    assert _resume(world, "embed") == (False, [])


@pytest.mark.parametrize("name", ["", "pictures", "embed "])
def test_an_unknown_queue_cannot_be_paused_or_resumed(world, name: str) -> None:
    with pytest.raises(NotFound):
        _pause(world, name)
    with pytest.raises(NotFound):
        _resume(world, name)


def test_waiting_delayed_and_leased_units_are_counted_separately(world) -> None:
    job_id = _job(world, 8)
    units = world.units(job_id)
    world.must_claim(units[0].id)
    with transaction(world.sessions) as session:
        later = sa.func.now() + sa.text("interval '1 hour'")
        session.execute(sa.update(Unit).where(Unit.id == units[1].id).values(run_after=later))
    embed = _depths(world)["embed"]
    assert (embed.waiting, embed.later, embed.at_work) == (2, 1, 1)
    assert embed.oldest == units[2].run_after
    assert [(one.waiting, one.oldest) for name, one in _depths(world).items() if name != "embed"] == [(0, None)] * 3
    assert list(_depths(world)) == ["query", "media", "embed", "score"]


def test_counting_stops_at_the_maximum(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_COUNTED", 2)
    _job(world, 8)
    assert _depths(world)["embed"].waiting == 2
