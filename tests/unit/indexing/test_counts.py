"""The kept counts of items and vectors are right in every state that a transaction leaves, whoever writes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.orm import Session
from tests.factories import make_collection, make_model, make_text, make_user, store

from retllm.db.counts import OF_COLLECTIONS, CollectionCount, merge
from retllm.db.enums import ItemKind
from retllm.db.migrate import config, upgrade
from retllm.db.session import Sessions, make_sessions, transaction
from retllm.db.tables import Collection, Embedding, Item, new_id
from retllm.db.trash import is_trashed
from retllm.indexing import coverage
from retllm.indexing.counts import counts_of
from retllm.indexing.indexed import clear_errors, keep_error
from retllm.media import records, trash
from retllm.media.trash import restore_items
from retllm.queue.audit import violations

_OF = OF_COLLECTIONS.of
_KEPT = f"SELECT {_OF}, sum(count)::bigint FROM collection_counts GROUP BY {_OF} HAVING sum(count) <> 0"
WEIGHT = 0.7


def check(session: Session) -> None:
    """Compare what is kept with what is there, also within a transaction."""
    session.flush()
    kept, real = (sorted(map(str, session.execute(sa.text(query)))) for query in (_KEPT, OF_COLLECTIONS.real))
    assert kept == real


@pytest.fixture
def models(world) -> list[UUID]:
    with transaction(world.sessions) as session:
        made = [make_model("one"), make_model("other")]
        store(session, *made)
    return [model.id for model in made]


def embed(session: Session, model_id: UUID, items: list[Item], weight: float = WEIGHT) -> None:
    """Store vectors of the current versions, over earlier ones."""
    rows = [
        {
            "item_id": item.id,
            "model_id": model_id,
            "collection_id": item.collection_id,
            "item_version": item.version,
            "image_weight": weight,
            "vector": [1.0, 0.0],
            "token": new_id(),
        }
        for item in items
    ]
    if rows:
        statement = sa.dialects.postgresql.insert(Embedding).values(rows)
        new = {name: statement.excluded[name] for name in ("item_version", "image_weight", "token")}
        session.execute(statement.on_conflict_do_update(index_elements=["item_id", "model_id"], set_=new))


def add(session: Session, collection_id: UUID, number: int) -> None:
    items = [make_text(collection_id, str(new_id())) for _ in range(number)]
    for item in items[::2]:
        item.kind, item.text = ItemKind.IMAGE, None
    store(session, *items)


def some(session: Session, random: random.Random) -> list[Item]:
    found = session.scalars(sa.select(Item).order_by(Item.id).execution_options(populate_existing=True)).all()
    return random.sample(list(found), min(len(found), random.randint(1, 5)))


def restore_all(session: Session, collection_id: UUID) -> None:
    """Restore what is in the trash."""
    keys = session.scalars(sa.select(Item.id).where(Item.collection_id == collection_id, is_trashed(Item))).all()
    restore_items(session, collection_id, keys)


@pytest.mark.parametrize("seed", range(4))
def test_the_counts_follow_every_change(world, models: list[UUID], seed: int) -> None:
    chance = random.Random(seed)
    with transaction(world.sessions) as session:
        second = make_collection(world.user.id, "second")
        store(session, second)
    collections = [world.collection_id, second.id]
    changes: list[Callable[[Session], Any]] = [
        lambda session: add(session, chance.choice(collections), chance.randint(1, 5)),
        lambda session: embed(session, chance.choice(models), some(session, chance), chance.choice([WEIGHT, 0.5])),
        lambda session: [keep_error(session, item.id, "why") for item in some(session, chance)],
        lambda session: clear_errors(session, [item.id for item in some(session, chance)]),
        lambda session: records.set_captions(
            session, {item.id: records.Caption(str(new_id())) for item in some(session, chance)}
        ),
        lambda session: records.empty_item(session, some(session, chance)[0].id),
        lambda session: trash.trash_items(
            session, records.lock_items(session, [i.id for i in some(session, chance)]), days=1, by=None
        ),
        lambda session: restore_all(session, chance.choice(collections)),
        lambda session: session.execute(sa.delete(Item).where(Item.id.in_([i.id for i in some(session, chance)]))),
        lambda session: session.execute(sa.delete(Embedding).where(Embedding.item_id == some(session, chance)[0].id)),
        lambda session: session.execute(sa.update(Item).values(name="another")),
        lambda session: session.execute(sa.update(Item).values(version=Item.version + 1)),
    ]
    for number in range(60):
        with world.sessions() as session:
            for _ in range(chance.randint(1, 3)):
                if session.scalar(sa.select(Item.id).limit(1)) is None:
                    add(session, chance.choice(collections), 5)
                chance.choice(changes)(session)
                check(session)
            # what is not committed is not counted
            session.rollback() if chance.random() < 0.2 else session.commit()
        if number % 7 == 0:
            merge(world.sessions)
        with world.sessions() as session:
            check(session)
            assert_as_counted(session, collections, models)
    assert [one for one in violations(world.sessions) if one.rule.endswith("counts_are_right")] == []


def assert_as_counted(session: Session, collections: list[UUID], models: list[UUID]) -> None:
    """The numbers that pages show are those that counting the rows gives."""
    ready = Item.state == "ready"
    for key, counts in counts_of(session, collections, WEIGHT).items():
        inside = sa.select(sa.func.count()).where(Item.collection_id == key, ready)
        failed = Item.error.is_not(None)
        assert counts.kinds.total() == session.scalar(inside)
        assert counts.failed == session.scalar(inside.where(failed))
        for model in models:
            right = sa.or_(Item.kind != ItemKind.BOTH, Embedding.image_weight == WEIGHT)
            fresh = sa.exists().where(
                Embedding.item_id == Item.id, Embedding.model_id == model, Embedding.item_version == Item.version, right
            )
            assert counts.embedded[model] == session.scalar(inside.where(fresh))
            assert counts.failed_without(model) == session.scalar(inside.where(failed, ~fresh))
            every = sa.select(sa.func.count()).where(Embedding.collection_id == key, Embedding.model_id == model)
            assert counts.vectors[model] == session.scalar(every)


@contextmanager
def meanwhile(do: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do something in another thread, and wait for its end after the block."""
    thread = threading.Thread(target=do)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("vector_first", [True, False])
def test_a_vector_and_a_new_version_at_the_same_time_are_counted_once(
    world, models: list[UUID], vector_first: bool
) -> None:
    (item_id,) = world.add_texts("a")
    item = world.in_transaction(lambda session: session.get_one(Item, item_id))

    def store_vector(session: Session) -> None:
        embed(session, models[0], [item])

    def change(session: Session) -> None:
        session.execute(sa.update(Item).values(version=Item.version + 1))

    first, then = (store_vector, change) if vector_first else (change, store_vector)
    with world.sessions() as session:
        first(session)
        with meanwhile(lambda: world.in_transaction(then)) as other:
            other.join(0.3)
            # it waits, since what it counts depends on this transaction
            assert other.is_alive()
            session.commit()
    with world.sessions() as session:
        check(session)


def test_workers_that_add_to_one_collection_do_not_wait_for_each_other(world, models: list[UUID]) -> None:
    with world.sessions() as first, world.sessions() as second:
        for session in (first, second):
            session.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
            add(session, world.collection_id, 3)
            added = session.scalars(sa.select(Item)).all()
            embed(session, models[0], list(added))
        second.commit()
        first.commit()
    with world.sessions() as session:
        check(session)


def rows(sessions: Sessions) -> int:
    with sessions() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(CollectionCount)) or 0


def test_merged_counts_are_few_rows_and_none_is_lost_to_two_mergers_and_a_writer(world) -> None:
    for number in range(20):
        world.add_texts(f"a{number}")
    # no writer waits for a merge, and a merge for no writer
    with world.sessions() as writer:
        add(writer, world.collection_id, 2)
        with meanwhile(lambda: merge(world.sessions)), meanwhile(lambda: merge(world.sessions)):
            pass
        assert rows(world.sessions) <= 2
        writer.commit()
    with world.sessions() as session:
        check(session)
    merge(world.sessions)
    assert rows(world.sessions) == 2
    assert merge(world.sessions) == 0


def test_counts_go_with_their_collection(world, models: list[UUID]) -> None:
    world.add_texts("a", "b")
    with transaction(world.sessions) as session:
        embed(session, models[0], list(session.scalars(sa.select(Item))))
    with transaction(world.sessions) as session:
        session.execute(sa.delete(Collection))
    assert rows(world.sessions) == 0


def test_vectors_are_removed_with_their_counts(world, models: list[UUID]) -> None:
    world.add_texts("a", "b")
    with transaction(world.sessions) as session:
        for model in models:
            embed(session, model, list(session.scalars(sa.select(Item))))
    assert coverage.remove_vectors(world.sessions, world.collection_id, models[1], world.settings) == 2
    with world.sessions() as session:
        assert +counts_of(session, [world.collection_id], WEIGHT)[world.collection_id].vectors == {models[0]: 2}
        check(session)


def test_a_wrong_count_is_a_violation(world) -> None:
    world.add_texts("a")
    with transaction(world.sessions) as session:
        session.execute(sa.update(CollectionCount).values(count=3))
    (found,) = violations(world.sessions)
    assert found.rule == "collection_counts_are_right"
    assert '"count": 2' in found.detail


@pytest.mark.slow
def test_the_migration_counts_what_is_there(own_database: str) -> None:
    sessions = make_sessions(own_database)
    with transaction(sessions) as session:
        user = make_user()
        collection = make_collection(user.id)
        store(session, user, collection)
        add(session, collection.id, 5)
        session.execute(sa.update(Item).where(Item.kind == ItemKind.TEXT).values(error="why"))
        model = make_model()
        store(session, model)
        embed(session, model.id, list(session.scalars(sa.select(Item).limit(4))))
        session.execute(sa.update(Item).where(Item.kind == ItemKind.TEXT).values(version=2))
    command.downgrade(config(own_database), "0024")
    upgrade(own_database)
    with sessions() as session:
        check(session)
        assert len(session.execute(sa.text(_KEPT)).all()) == 4
    sessions.kw["bind"].dispose()
