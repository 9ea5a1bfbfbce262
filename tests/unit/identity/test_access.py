"""Access rights as a table: every role with every relation to a collection."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, JobKind, JobState, MemberRole, Role, TokenScope, Visibility
from retllm.db.jobs import Job
from retllm.db.people import CollectionMember
from retllm.db.tables import Collection, Item, User, new_id
from retllm.errors import Forbidden, NotFound
from retllm.identity import access, accounts
from retllm.identity.access import Right
from retllm.identity.actor import Actor

PASSWORD = "correct horse battery"
SEE, CHANGE, MANAGE = Right.SEE, Right.CHANGE, Right.MANAGE

# the maximum right of each role in a collection that it owns, that it is a member of as editor or as viewer, that is
# visible to everyone, that is visible to everyone and it is a member of, and that is another account's
TABLE = {
    Role.ADMIN: {
        "own": MANAGE,
        "editor": MANAGE,
        "viewer": MANAGE,
        "open": MANAGE,
        "open editor": MANAGE,
        "foreign": MANAGE,
    },
    Role.EDITOR: {
        "own": MANAGE,
        "editor": CHANGE,
        "viewer": SEE,
        "open": SEE,
        "open editor": CHANGE,
        "foreign": None,
    },
    Role.VIEWER: {
        "own": SEE,
        "editor": SEE,
        "viewer": SEE,
        "open": SEE,
        "open editor": SEE,
        "foreign": None,
    },
}
PLACES = list(TABLE[Role.ADMIN])


@dataclass
class World:
    """An account with one role, another account, and a collection for each relation with an item and a job of each."""

    session: Session
    user: Actor
    other: User
    collections: dict[str, Collection]

    def job(self, place: str, owner: User | Actor) -> Job:
        """Return a job of the collection with that relation."""
        job = Job(
            id=new_id(),
            kind=JobKind.INDEX,
            state=JobState.RUNNING,
            user_id=owner.id,
            collection_id=self.collections[place].id,
            params={},
        )
        self.session.add(job)
        self.session.flush()
        return job

    def item(self, place: str) -> Item:
        """Return an item of the collection with that relation."""
        item = Item(
            id=new_id(),
            collection_id=self.collections[place].id,
            kind=ItemKind.TEXT,
            name="a",
            content_sha256="0",
            text="a",
            size_bytes=1,
        )
        self.session.add(item)
        self.session.flush()
        return item


@pytest.fixture
def world(session: Session, role: Role) -> World:
    user = accounts.create_user(session, "ada", PASSWORD, role)
    other = accounts.create_user(session, "bob", PASSWORD, Role.EDITOR)
    made: dict[str, Collection] = {}
    for place in PLACES:
        owner = user if place == "own" else other
        seen = Visibility.EVERYONE if "open" in place else Visibility.PRIVATE
        made[place] = Collection(id=new_id(), owner_id=owner.id, name=place, visibility=seen)
    session.add_all(made.values())
    session.flush()
    for place, as_role in (
        ("editor", MemberRole.EDITOR),
        ("viewer", MemberRole.VIEWER),
        ("open editor", MemberRole.EDITOR),
    ):
        session.add(CollectionMember(collection_id=made[place].id, user_id=user.id, role=as_role))
    session.flush()
    return World(session, Actor.unlimited(user), other, made)


roles = pytest.mark.parametrize("role", list(Role))


@roles
def test_every_role_has_the_rights_of_the_table_in_every_collection(world: World, role: Role) -> None:
    for place, right in product(PLACES, Right):
        found, most = world.collections[place], TABLE[role][place]
        assert access.right_in(world.session, world.user, found) is most, place
        if most is not None and right <= most:
            assert access.collection_for(world.session, world.user, found.id, right) is found
            continue
        refusal = NotFound if most is None else Forbidden
        with pytest.raises(refusal):
            access.collection_for(world.session, world.user, found.id, right)


@roles
def test_without_a_scope_nothing_is_allowed(world: World, role: Role) -> None:
    nobody = Actor(world.user.user, None)
    for place, right in product(PLACES, Right):
        assert access.right_in(world.session, nobody, world.collections[place]) is None, place
        with pytest.raises((NotFound, Forbidden)):
            access.collection_for(world.session, nobody, world.collections[place].id, right)
        with pytest.raises(NotFound):
            access.job_for(world.session, nobody, world.job(place, world.user).id)
    assert world.session.scalars(sa.select(Collection).where(access.visible_collections(nobody))).all() == []
    for least in TokenScope:
        with pytest.raises(Forbidden, match="no scope"):
            access.require_scope(nobody, least)
    assert not access.is_admin(nobody)


@roles
def test_access_to_an_item_depends_on_its_collection(world: World, role: Role) -> None:
    for place, right in product(PLACES, Right):
        item, most = world.item(place), TABLE[role][place]
        if most is not None and right <= most:
            assert access.item_for(world.session, world.user, item.id, right) is item
        else:
            with pytest.raises(NotFound if most is None else Forbidden) as caught:
                access.item_for(world.session, world.user, item.id, right)
            # the error for a hidden item does not mention its collection
            assert most is not None or "item" in caught.value.message
        item.content_sha256 = str(item.id)
        world.session.flush()


@roles
def test_lists_contain_exactly_the_visible_collections_and_jobs(world: World, role: Role) -> None:
    seen = {place for place in PLACES if TABLE[role][place] is not None}
    listed = sa.select(Collection.name).where(access.visible_collections(world.user))
    assert set(world.session.scalars(listed)) == seen
    jobs = {world.job(place, world.other).id: place for place in PLACES}
    within = sa.select(Job.id).where(access.visible_jobs(world.user))
    assert {jobs[key] for key in world.session.scalars(within)} == seen
    for key, place in jobs.items():
        if place in seen:
            assert access.job_for(world.session, world.user, key).id == key
        else:
            with pytest.raises(NotFound):
                access.job_for(world.session, world.user, key)


@roles
@pytest.mark.parametrize("whose", ["their own", "another account's"])
def test_jobs_can_be_changed_by_their_owner_and_by_accounts_with_change_rights(
    world: World, role: Role, whose: str
) -> None:
    own = whose == "their own"
    jobs = {place: world.job(place, world.user if own else world.other) for place in PLACES}
    allowed = {place for place in PLACES if (most := TABLE[role][place]) and (own or most >= CHANGE)}
    for place, job in jobs.items():
        if place in allowed:
            access.require_job_rights(world.session, world.user, job)
        else:
            with pytest.raises(NotFound if TABLE[role][place] is None else Forbidden):
                access.require_job_rights(world.session, world.user, job)
    both = access.changeable_jobs(world.user), access.visible_jobs(world.user)
    listed = set(world.session.scalars(sa.select(Job.id).where(*both)))
    assert listed == {jobs[place].id for place in allowed}


@pytest.mark.parametrize("role", [Role.EDITOR])
def test_missing_and_hidden_collections_give_the_same_error(world: World) -> None:
    messages = set()
    for key in (world.collections["foreign"].id, new_id()):
        with pytest.raises(NotFound) as caught:
            access.collection_for(world.session, world.user, key)
        messages.add(caught.value.message.replace(str(key), "ID"))
    assert len(messages) == 1


@roles
def test_roles_other_than_the_required_one_are_rejected(world: World, role: Role) -> None:
    access.require_role(world.user, role)
    for other in set(Role) - {role}:
        with pytest.raises(Forbidden):
            access.require_role(world.user, other)
