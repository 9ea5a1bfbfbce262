"""Accounts and their roles: the list, one account, and the actions of administrators."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.errors import Conflict, InvalidInput
from retllm.identity import accounts, passwords, tokens
from retllm.identity.access import require_role
from retllm_web.actions import administration
from retllm_web.http.auth import current_actor, hashing
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form

ROLES = {
    # label, permissions
    Role.ADMIN: ("Administrator", "can see and change everything, and create accounts"),
    Role.EDITOR: ("Editor", "can create collections, and change their own and those they are an editor of"),
    Role.VIEWER: ("Viewer", "can search and review shared collections; cannot change any"),
}
_PEOPLE = 50


@dataclass
class FormFeedback:
    """The result of a form; ``password`` is the generated password of the account ``name``, shown only once."""

    form: Form = field(default_factory=Form)
    name: str | None = None
    password: str | None = None
    status: int = 200


@pages.app_context_processor
def _wording() -> dict[str, object]:
    return {"ROLES": ROLES}


@pages.get("/people")
def people() -> ResponseReturnValue:
    """Show the accounts, for administrators."""
    return _list(FormFeedback())


def _list(feedback: FormFeedback) -> ResponseReturnValue:
    require_role(current_actor(), Role.ADMIN)
    after = key_or_none(request.args.get("after"), "page")
    q = request.args.get("q", "").replace("\0", "").strip()[:100]
    with transaction(services().sessions) as session:
        rows = accounts.list_users(session, q=q, after=after, limit=_PEOPLE + 1)
    page, following = cut(rows, _PEOPLE)
    shown = {"people": page, "next": following, "after": after, "q": q, "feedback": feedback}
    return render_template("people.html", **shown, min_password=passwords.MIN), feedback.status


@pages.post("/people")
def create_person() -> ResponseReturnValue:
    """Create an account; only this response shows a generated password."""
    require_role(current_actor(), Role.ADMIN)
    form = Form.sent()
    try:
        with hashing(), transaction(services().sessions) as session:
            typed = str(form.values.get("password", "")) or None
            user, generated = administration.create(session, form.text("name"), _role(form), typed)
    except (InvalidInput, Conflict) as error:
        form.refuse(error, otherwise="name")
        form.values.pop("password", None)
        return _list(FormFeedback(form, status=error.http_status))
    return _list(FormFeedback(name=user.name, password=generated))


def _role(form: Form) -> Role:
    try:
        return Role(form.text("role"))
    except ValueError:
        raise InvalidInput("Choose a role.", field="role") from None


@pages.get("/people/<uuid:user_id>")
def person(user_id: UUID) -> ResponseReturnValue:
    """Show one account, for administrators."""
    return _person(user_id, FormFeedback())


def _person(user_id: UUID, feedback: FormFeedback) -> ResponseReturnValue:
    with transaction(services().sessions) as session:
        (shown,) = accounts.listed(session, [administration.find(session, user_id)])
        own = tokens.active(session, shown.user)
    page = render_template(
        "people_one.html",
        person=shown.user,
        collections=shown.collections,
        tokens=own,
        feedback=feedback,
        min_password=passwords.MIN,
    )
    return page, feedback.status


@pages.post("/people/<uuid:user_id>/role")
def change_role(user_id: UUID) -> ResponseReturnValue:
    """Change the role of an account."""
    here = url_for("pages.person", user_id=user_id)
    try:
        with transaction(services().sessions) as session:
            user = administration.find(session, user_id)
            role = _role(Form.sent())
            administration.set_role(session, user, role)
    except (InvalidInput, Conflict) as error:
        return refused(error, here)
    flash(f"{user.name} now has the role {ROLES[role][0].lower()}.", "success")
    # without the role of an administrator, this page is forbidden
    lost = user.id == current_actor().id and role is not Role.ADMIN
    return redirect(url_for("pages.overview") if lost else here)


@pages.post("/people/<uuid:user_id>/lock")
def lock_person(user_id: UUID) -> ResponseReturnValue:
    """Lock out an account."""
    here = url_for("pages.person", user_id=user_id)
    try:
        with transaction(services().sessions) as session:
            user = administration.find(session, user_id)
            administration.lock(session, user, out=True)
    except Conflict as error:
        return refused(error, here)
    flash(f"{user.name} is locked out: neither password nor tokens work.", "success")
    return redirect(here)


@pages.post("/people/<uuid:user_id>/unlock")
def unlock_person(user_id: UUID) -> ResponseReturnValue:
    """Unlock an account."""
    with transaction(services().sessions) as session:
        user = administration.find(session, user_id)
        administration.lock(session, user, out=False)
    flash(f"{user.name} is unlocked.", "success")
    return redirect(url_for("pages.person", user_id=user_id))


@pages.post("/people/<uuid:user_id>/password")
def give_password(user_id: UUID) -> ResponseReturnValue:
    """Set a new password; only this response shows a generated one."""
    form = Form.sent()
    try:
        with hashing(), transaction(services().sessions) as session:
            user = administration.find(session, user_id)
            generated = administration.set_password(session, user, str(form.values.get("password", "")) or None)
    except InvalidInput as error:
        form.refuse(error, otherwise="password")
        form.values.clear()
        return _person(user_id, FormFeedback(form, status=error.http_status))
    return _person(user_id, FormFeedback(name=user.name, password=generated))
