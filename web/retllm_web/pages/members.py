"""Who sees what of a collection: its visibility, its members, positions; for its owner and administrators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import MemberRole, Positions, Visibility
from retllm.db.people import CollectionMember
from retllm.db.session import transaction
from retllm.db.tables import Collection, User
from retllm.errors import Conflict, Forbidden, InvalidInput, NotFound
from retllm.identity import accounts, names
from retllm.identity import members as listing
from retllm.identity.access import Right, collection_for, is_admin, right_in
from retllm.identity.links import Target
from retllm_web.actions import membership
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form
from retllm_web.pages.link_list import LinkFeedback, links_shown

VISIBILITIES = {
    # label, who may see it
    Visibility.PRIVATE: ("Private", "only the owner, members and administrators can see it"),
    Visibility.EVERYONE: ("Everyone", "every account can view, search and review it"),
}
POSITIONS = {
    # label, who sees where items were made
    Positions.EVERYONE: ("Everyone", "all who see the collection see where its items were made, and get originals"),
    Positions.EDITORS: ("Editors only", "others see no positions and download copies instead of originals"),
    Positions.NOBODY: ("Not kept", "positions are erased for good, and not read from files that come"),
}
MEMBER_ROLES = {
    # label, permissions
    MemberRole.VIEWER: ("Viewer", "can view, search and review"),
    MemberRole.EDITOR: ("Editor", "can also upload, index, change and delete items"),
}
_ARTICLES = {MemberRole.VIEWER: "a", MemberRole.EDITOR: "an"}
_MEMBERS = 100
# accounts to choose from
_ACCOUNTS = 30
Choice = TypeVar("Choice", bound=StrEnum)


@pages.get("/collections/<uuid:collection_id>/people")
def members(collection_id: UUID) -> ResponseReturnValue:
    """Show the members; a member who does not manage the collection sees their own role and can leave."""
    return members_page(collection_id)


def members_page(
    collection_id: UUID, feedback: LinkFeedback | None = None, *, form: Form | None = None, status: int = 200
) -> ResponseReturnValue:
    """Return the page, with the result of one of its forms.

    Raises:
        NotFound: there is no such collection that this account may see.
        Forbidden: it neither manages the collection nor is a member.
    """
    feedback = feedback or LinkFeedback(status=status)
    user = current_actor()
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        found = collection_for(session, user, collection_id)
        owner = session.get_one(User, found.owner_id).name
        if right_in(session, user, found) is not Right.MANAGE:
            own = session.get(CollectionMember, (collection_id, user.id))
            if own is None:
                raise Forbidden("Only the owner of this collection and administrators can see its members.")
            return render_template("members_own.html", collection=found, owner=owner, role=MEMBER_ROLES[own.role])
        rows = listing.page(session, found, after=after, limit=_MEMBERS + 1)
        find = request.args.get("find", "").replace("\0", "").strip()[: names.MAX]
        may_list = is_admin(user) or services().settings.list_accounts
        others = listing.candidates(session, found, find, limit=_ACCOUNTS) if may_list else None
        linked = links_shown(session, Target([found]), feedback)
    page, following = cut(rows, _MEMBERS)
    shown = {"collection": found, "owner": owner, "members": page, "next": following, "after": after}
    shown |= {"form": form or Form(), **linked}
    choices = {"visibilities": VISIBILITIES, "positions": POSITIONS, "roles": MEMBER_ROLES}
    return render_template(
        "members.html", **shown, **choices, accounts=others, find=find, most=_ACCOUNTS
    ), feedback.status


@pages.post("/collections/<uuid:collection_id>/people")
def add_member(collection_id: UUID) -> ResponseReturnValue:
    """Add members by name, all of them or none, or change the role of members."""
    form = Form.sent()
    try:
        with transaction(services().sessions) as session:
            found = collection_for(session, current_actor(), collection_id, Right.MANAGE)
            users, role = _named_users(session, form), _role(form)
            for user in users:
                membership.add_member(session, found, user, role)
    except (InvalidInput, Conflict) as error:
        form.refuse(error, otherwise="name")
        return members_page(collection_id, form=form, status=error.http_status)
    word = MEMBER_ROLES[role][0].lower()
    many = (
        f"{len(users)} people are now {word}s" if len(users) > 1 else f"{users[0].name} is now {_ARTICLES[role]} {word}"
    )
    flash(f"{many} of this collection.", "success")
    return redirect(url_for("pages.members", collection_id=collection_id))


def _named_users(session: Session, form: Form) -> list[User]:
    """Return the accounts that were chosen from the list or written, in the order of their keys."""
    chosen = [name for name in (*request.form.getlist("account"), form.text("name")) if name]
    if not chosen:
        raise InvalidInput("Enter the name of an account, or choose one.", field="name")
    if len(chosen) > _ACCOUNTS + 1:
        raise InvalidInput(f"Add at most {_ACCOUNTS} people at a time.", field="name")
    try:
        users = {user.id: user for user in (accounts.find_user(session, name) for name in chosen)}
    except NotFound as error:
        raise InvalidInput(f"{error.message} An administrator can create one.", field="name") from None
    return [users[key] for key in sorted(users)]


def _role(form: Form) -> MemberRole:
    try:
        return MemberRole(form.text("role"))
    except ValueError:
        raise InvalidInput("Choose a role.", field="role") from None


@pages.post("/collections/<uuid:collection_id>/people/<uuid:user_id>/remove")
def remove_member(collection_id: UUID, user_id: UUID) -> ResponseReturnValue:
    """Remove a member; who manages the collection may remove anyone, a member only themselves."""
    leaving = user_id == current_actor().id
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), collection_id, Right.SEE if leaving else Right.MANAGE)
        name = membership.remove_member(session, found, user_id)
    flash(f"You left “{found.name}”." if leaving else f"{name} is no longer a member.", "success")
    return redirect(url_for("pages.collections") if leaving else url_for("pages.members", collection_id=collection_id))


@pages.post("/collections/<uuid:collection_id>/visibility")
def change_visibility(collection_id: UUID) -> ResponseReturnValue:
    """Change who may see a collection."""
    return _change(collection_id, "visibility", VISIBILITIES, membership.set_visibility)


@pages.post("/collections/<uuid:collection_id>/positions")
def change_positions(collection_id: UUID) -> ResponseReturnValue:
    """Change who sees where the items were made."""
    return _change(collection_id, "positions", POSITIONS, membership.set_positions)


def _change(
    collection_id: UUID,
    field: str,
    choices: Mapping[Choice, tuple[str, str]],
    change: Callable[[Session, Collection, Choice], None],
) -> ResponseReturnValue:
    """Change what a field of the form says to one of its choices."""
    here = url_for("pages.members", collection_id=collection_id)
    chosen = next((choice for choice in choices if choice == request.form.get(field)), None)
    if chosen is None:
        return refused(InvalidInput("Not changed: choose one of the possibilities."), here)
    with transaction(services().sessions) as session:
        change(session, collection_for(session, current_actor(), collection_id, Right.MANAGE), chosen)
    label, meaning = choices[chosen]
    flash(f"{label}: {meaning}.", "success")
    return redirect(here)
