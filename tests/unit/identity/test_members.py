"""Members of a collection: add, change, remove."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from retllm.db.enums import MemberRole, Role
from retllm.db.tables import Collection, User, new_id
from retllm.errors import Conflict, NotFound
from retllm.identity import accounts, members
from retllm.identity.access import Right, right_in
from retllm.identity.actor import Actor

PASSWORD = "correct horse battery"


@pytest.fixture
def owner(session: Session) -> User:
    return accounts.create_user(session, "ada", PASSWORD)


@pytest.fixture
def birds(session: Session, owner: User) -> Collection:
    made = Collection(id=new_id(), owner_id=owner.id, name="Birds")
    session.add(made)
    session.flush()
    return made


def test_a_member_has_only_the_role_that_was_set_last(session: Session, birds: Collection) -> None:
    bob = accounts.create_user(session, "bob", PASSWORD)
    actor = Actor.unlimited(bob)
    assert right_in(session, actor, birds) is None
    members.add_member(session, birds, bob, MemberRole.VIEWER)
    session.expire_all()
    assert right_in(session, actor, birds) is Right.SEE
    members.add_member(session, birds, bob, MemberRole.EDITOR)
    session.expire_all()
    assert right_in(session, actor, birds) is Right.CHANGE
    (one,) = members.page(session, birds)
    assert (one.name, one.role, one.held_back) == ("bob", MemberRole.EDITOR, False)
    assert members.remove_member(session, birds, bob.id) == "bob"
    session.expire_all()
    assert right_in(session, actor, birds) is None
    with pytest.raises(NotFound):
        members.remove_member(session, birds, bob.id)


def test_the_owner_cannot_be_a_member(session: Session, birds: Collection, owner: User) -> None:
    with pytest.raises(Conflict):
        members.add_member(session, birds, owner, MemberRole.VIEWER)


def test_a_viewer_with_the_member_role_editor_is_flagged(session: Session, birds: Collection) -> None:
    eve = accounts.create_user(session, "eve", PASSWORD, Role.VIEWER)
    assert members.add_member(session, birds, eve, MemberRole.EDITOR).held_back
    assert not members.add_member(session, birds, eve, MemberRole.VIEWER).held_back


def test_pages_of_members_follow_each_other_without_a_gap(session: Session, birds: Collection) -> None:
    names = [f"user{number}" for number in range(5)]
    other = Collection(id=new_id(), owner_id=birds.owner_id, name="Other")
    session.add(other)
    session.flush()
    for name in names:
        user = accounts.create_user(session, name, PASSWORD)
        members.add_member(session, birds, user, MemberRole.VIEWER)
    members.add_member(session, other, accounts.create_user(session, "elsewhere", PASSWORD), MemberRole.VIEWER)
    first = members.page(session, birds, limit=3)
    second = members.page(session, birds, after=first[-1].id, limit=3)
    assert [one.name for one in (*first, *second)] == names


def test_members_are_counted_up_to_a_maximum(
    session: Session, owner: User, birds: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Collection(id=new_id(), owner_id=owner.id, name="Others")
    session.add(other)
    session.flush()
    for name in ("ann", "bea", "cid"):
        members.add_member(session, birds, accounts.create_user(session, name, PASSWORD), MemberRole.VIEWER)
    assert members.counts(session, [birds.id, other.id]) == {birds.id: 3, other.id: 0}
    monkeypatch.setattr(members, "MAX_COUNTED", 1)
    assert members.counts(session, [birds.id]) == {birds.id: 2}
