"""What is done to jobs from the history: asked for with what it comes to, then done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from retllm.db.session import transaction
from retllm.db.tables import Job, new_id
from retllm.errors import RetllmError
from retllm.history import control, listing
from retllm.history.control import BulkAction
from retllm.history.listing import Condition, JobFilters, Reach
from retllm.identity.access import within_visible
from retllm.identity.actor import Actor
from retllm_web.actions import bulk
from retllm_web.actions.bulk import BulkResult
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.render.filters import address_of, filters_of, keys_asked, pairs_of

# jobs that can be named one by one; an address holds no more
_MAX_NAMED = 200
_DONE = {BulkAction.CANCEL: "cancelled", BulkAction.RETRY: "tried again", BulkAction.DELETE: "deleted"}


@dataclass(frozen=True)
class Wanted:
    """What is to be done, and to which jobs: those that are named, or all that match the filters."""

    action: BulkAction
    filters: JobFilters
    keys: list[UUID]
    everything: bool
    upto: UUID
    after: UUID | None

    @classmethod
    def of(cls, sent: MultiDict[str, str]) -> Wanted | None:
        """What was sent; None if it says nothing to do.

        Raises:
            NotFound: a key is none.
        """
        action = next((one for one in BulkAction if one.value == sent.get("deed")), None)
        keys = keys_asked(sent.getlist("of"), _MAX_NAMED)
        everything = sent.get("all") == "1"
        if action is None or not (keys or everything):
            return None
        upto = key_or_none(sent.get("upto"), "job") or new_id()
        return cls(action, filters_of(sent), keys, everything, upto, key_or_none(sent.get("after"), "job"))

    def conditions(self, actor: Actor) -> Sequence[Condition]:
        """What is true of the jobs that are meant."""
        if not self.everything:
            return [Job.id.in_(self.keys), within_visible(actor, Job.collection_id)]
        left = [Job.id < self.after] if self.after else []
        return [*self.filters.matching(actor), Job.id <= self.upto, *left]

    def reach(self, session: Session, actor: Actor) -> Reach:
        """To how many of them it can be done."""
        return listing.reach(session, actor, self.conditions(actor), control.allowed(self.action))

    def fields(self) -> list[tuple[str, str]]:
        """What the form that does it sends again."""
        sent = [("deed", self.action.value), ("upto", str(self.upto)), *pairs_of(self.filters)]
        if self.everything:
            return [*sent, ("all", "1"), *([("after", str(self.after))] if self.after else [])]
        return [*sent, *(("of", str(key)) for key in self.keys)]

    def do(self, actor: Actor) -> BulkResult:
        """Do it, to at most ``bulk.MOST`` of them."""
        if self.everything:
            return bulk.apply_to_all(actor, self.action, self.filters, upto=self.upto, after=self.after)
        return bulk.do_to(actor, self.action, self.keys)

    def back(self) -> str:
        """The address of the list that this came from."""
        return url_for("pages.jobs", **address_of(self.filters))


@pages.get("/jobs/confirm")
def confirm_jobs() -> ResponseReturnValue:
    """Say to how many jobs it would be done, and ask whether to do it."""
    wanted = Wanted.of(request.args)
    if wanted is None:
        flash("Select the jobs first: tick some of them, or all that fit the filter.", "info")
        return redirect(url_for("pages.jobs", **address_of(filters_of(request.args))))
    with transaction(services().sessions) as session:
        found = wanted.reach(session, current_actor())
    return render_template("jobs_confirm.html", wanted=wanted, reach=found, limit=bulk.MAX, back=wanted.back())


@pages.post("/jobs/confirm")
def do_to_jobs() -> ResponseReturnValue:
    """Do it, and tell what was done and what was not."""
    wanted = Wanted.of(request.form)
    if wanted is None:
        return redirect(url_for("pages.jobs"))
    tally = wanted.do(current_actor())
    flash(_told(wanted.action, tally), "success" if tally.done else "info")
    if tally.refused:
        flash(_told_refused(wanted.action, tally.refused), "warning")
    if tally.after is None:
        return redirect(wanted.back())
    again = {**address_of(wanted.filters), "deed": wanted.action.value, "all": 1}
    return redirect(url_for("pages.confirm_jobs", **again, upto=wanted.upto, after=tally.after))


def _told(action: BulkAction, tally: BulkResult) -> str:
    if not tally.done:
        return f"No job was {_DONE[action]}."
    return "1 job is " + f"{_DONE[action]}." if tally.done == 1 else f"{tally.done:,} jobs are {_DONE[action]}."


def _told_refused(action: BulkAction, refused: Counter[str]) -> str:
    reasons = "; ".join(f"{number:,} {'is' if number == 1 else 'are'} {reason}" for reason, number in refused.items())
    return f"{refused.total():,} {'was' if refused.total() == 1 else 'were'} not {_DONE[action]}: {reasons}."


@pages.post("/jobs/<uuid:job_id>/delete")
def delete_job(job_id: UUID) -> ResponseReturnValue:
    """Delete one job with its results."""
    try:
        bulk.delete(current_actor(), job_id)
    except RetllmError as error:
        return refused(error, url_for("pages.job", job_id=job_id))
    flash("The job is deleted.", "success")
    return redirect(url_for("pages.jobs"))
