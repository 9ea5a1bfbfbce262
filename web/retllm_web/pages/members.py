"""The visibility and the members of a collection, for its owner and administrators."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from retllm.db.enums import MemberRole, Visibility
from retllm.db.people import CollectionMember
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.errors import Conflict, Forbidden, InvalidInput, NotFound
from retllm.identity import accounts
from retllm.identity import members as listing
from retllm.identity.access import Right, collection_for, right_in
from retllm_web.actions import membership
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form

VISIBILITIES = {
    # label, who may see it
    Visibility.PRIVATE: ("Private", "only the owner, members and administrators can see it"),
    Visibility.EVERYONE: ("Everyone", "every account can view, search and review it"),
}
MEMBER_ROLES = {
    # label, permissions
    MemberRole.VIEWER: ("Viewer", "can view, search and review"),
    MemberRole.EDITOR: ("Editor", "can also upload, index, change and delete items"),
}
_ARTICLES = {MemberRole.VIEWER: "a", MemberRole.EDITOR: "an"}
_MEMBERS = 100


@pages.get("/collections/<uuid:collection_id>/people")
def members(collection_id: UUID) -> ResponseReturnValue:
    """Show the members; a member who does not manage the collection sees their own role and can leave."""
    return _page(collection_id, Form())


def _page(collection_id: UUID, form: Form, status: int = 200) -> ResponseReturnValue:
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
    page, following = cut(rows, _MEMBERS)
    shown = {"collection": found, "owner": owner, "members": page, "next": following, "after": after, "form": form}
    return render_template("members.html", **shown, visibilities=VISIBILITIES, roles=MEMBER_ROLES), status


@pages.post("/collections/<uuid:collection_id>/people")
def add_member(collection_id: UUID) -> ResponseReturnValue:
    """Add a member by name, or change a member's role."""
    form = Form.sent()
    try:
        with transaction(services().sessions) as session:
            found = collection_for(session, current_actor(), collection_id, Right.MANAGE)
            user, role = _named_user(session, form), _role(form)
            membership.add_member(session, found, user, role)
    except (InvalidInput, Conflict) as error:
        form.refuse(error, otherwise="name")
        return _page(collection_id, form, error.http_status)
    flash(f"{user.name} is now {_ARTICLES[role]} {MEMBER_ROLES[role][0].lower()} of this collection.", "success")
    return redirect(url_for("pages.members", collection_id=collection_id))


def _named_user(session: Session, form: Form) -> User:
    if not form.text("name"):
        raise InvalidInput("Enter the name of an account.", field="name")
    try:
        return accounts.find_user(session, form.text("name"))
    except NotFound as error:
        raise InvalidInput(f"{error.message} An administrator can create one.", field="name") from None


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
    here = url_for("pages.members", collection_id=collection_id)
    try:
        chosen = Visibility(request.form.get("visibility", ""))
    except ValueError:
        return refused(InvalidInput("Not changed: choose who can see the collection."), here)
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), collection_id, Right.MANAGE)
        membership.set_visibility(session, found, chosen)
    label, meaning = VISIBILITIES[chosen]
    flash(f"{label}: {meaning}.", "success")
    return redirect(here)
