"""Named filters of the history, saved for an account."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from flask import flash, redirect, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.dialects.postgresql import insert

from retllm.db.people import SavedView
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.errors import Conflict, InvalidInput, NotFound, RetllmError
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form
from retllm_web.render.filters import filters_of_address, query_of

_MAX_NAME_LENGTH = 60
_MAX = 50


@pages.post("/jobs/views")
def save_view() -> ResponseReturnValue:
    """Save a filter under a name; an existing name gets the new filter."""
    form = Form.sent()
    # normalized, whatever was sent
    address = query_of(filters_of_address(form.text("address")))
    here = url_for("pages.jobs") + (f"?{address}" if address else "")
    try:
        name = " ".join(form.text("name").split())
        if not 1 <= len(name) <= _MAX_NAME_LENGTH:
            raise InvalidInput(f"Enter a name of 1 to {_MAX_NAME_LENGTH} characters for the view.", field="name")
        _save(name, address)
    except RetllmError as error:
        return refused(error, here)
    flash(f"View “{name}” saved.", "success")
    return redirect(here)


def _save(name: str, address: str) -> None:
    user = current_actor()
    with transaction(services().sessions) as session:
        mine = sa.select(SavedView.name).filter_by(user_id=user.id)
        names = session.scalars(mine).all()
        if len(names) >= _MAX and name not in names:
            raise Conflict(f"You already have {_MAX} saved views, the maximum. Delete one first.")
        session.execute(
            insert(SavedView)
            .values(id=new_id(), user_id=user.id, name=name, address=address)
            .on_conflict_do_update(index_elements=["user_id", "name"], set_={"address": address})
        )


@pages.post("/jobs/views/<uuid:view_id>/delete")
def delete_view(view_id: UUID) -> ResponseReturnValue:
    """Delete a saved view of this account, but no job."""
    with transaction(services().sessions) as session:
        mine = sa.delete(SavedView).filter_by(id=view_id, user_id=current_actor().id).returning(SavedView.id)
        if session.scalar(mine) is None:
            raise NotFound("There is no such view.")
    flash("View deleted.", "success")
    return redirect(url_for("pages.jobs"))
