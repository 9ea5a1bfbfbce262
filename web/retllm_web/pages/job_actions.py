"""Bulk actions on jobs of the history: a page to confirm, then the action."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.errors import RetllmError
from retllm.history import control, listing
from retllm.history.control import BulkAction
from retllm.history.listing import ActionCounts, Condition, JobFilters
from retllm.identity.access import visible_jobs
from retllm.identity.actor import Actor
from retllm_web.actions import bulk
from retllm_web.actions.bulk import BulkResult
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.render.filters import address_of, filters_of, job_keys, pairs_of

# jobs that a request can name; an address has no room for more
_MAX_NAMED = 200
_DONE = {BulkAction.CANCEL: "cancelled", BulkAction.RETRY: "retried", BulkAction.DELETE: "deleted"}


@dataclass(frozen=True)
class BulkRequest:
    """An action and the jobs that it applies to: named ones, or all that match the filters."""

    action: BulkAction
    filters: JobFilters
    keys: list[UUID]
    everything: bool
    upto: UUID
    after: UUID | None

    @classmethod
    def of(cls, sent: MultiDict[str, str]) -> BulkRequest | None:
        """Return the request in ``sent``; None if it has no action or no jobs.

        Raises:
            NotFound: a key is malformed.
        """
        action = next((action for action in BulkAction if action.value == sent.get("deed")), None)
        keys = job_keys(sent.getlist("of"), _MAX_NAMED)
        everything = sent.get("all") == "1"
        if action is None or not (keys or everything):
            return None
        upto = key_or_none(sent.get("upto"), "job") or new_id()
        return cls(action, filters_of(sent), keys, everything, upto, key_or_none(sent.get("after"), "job"))

    def count(self, session: Session, actor: Actor) -> ActionCounts:
        """Return how many of the jobs allow the action."""
        allowed = control.allowed(self.action)
        if not self.everything:
            named: list[Condition] = [Job.id.in_(self.keys), visible_jobs(actor)]
            return listing.count_for_action(session, actor, named, allowed)
        remaining = [Job.id < self.after] if self.after else []
        conditions = [*replace(self.filters, text="").matching(actor), Job.id <= self.upto, *remaining]
        return listing.count_for_action(session, actor, conditions, allowed, self.filters.text)

    def fields(self) -> list[tuple[str, str]]:
        """Return the hidden fields of the form that confirms the action."""
        sent = [("deed", self.action.value), ("upto", str(self.upto)), *pairs_of(self.filters)]
        if self.everything:
            return [*sent, ("all", "1"), *([("after", str(self.after))] if self.after else [])]
        return [*sent, *(("of", str(key)) for key in self.keys)]

    def do(self, actor: Actor) -> BulkResult:
        """Apply the action to at most ``bulk.MAX`` jobs."""
        if self.everything:
            return bulk.apply_to_all(actor, self.action, self.filters, upto=self.upto, after=self.after)
        return bulk.apply_to(actor, self.action, self.keys)

    def address_after(self, after: UUID) -> dict[str, Any]:
        """Return the arguments of the address for the jobs that are older than one."""
        more = {"deed": self.action.value, "all": 1, "upto": self.upto, "after": after}
        return {**address_of(self.filters), **more}

    def back(self) -> str:
        """Return the address of the list that the request came from."""
        return url_for("pages.jobs", **address_of(self.filters))


@pages.get("/jobs/confirm")
def confirm_jobs() -> ResponseReturnValue:
    """Show how many jobs the action would change, with a form to confirm it."""
    bulk_request = BulkRequest.of(request.args)
    if bulk_request is None:
        flash("Select jobs first, or all that match the filter.", "info")
        return redirect(url_for("pages.jobs", **address_of(filters_of(request.args))))
    with transaction(services().sessions) as session:
        counts = bulk_request.count(session, current_actor())
    older = None
    if counts.next is not None and not counts.possible:
        older = url_for("pages.confirm_jobs", **bulk_request.address_after(counts.next))
    return render_template(
        "jobs_confirm.html",
        bulk_request=bulk_request,
        counts=counts,
        limit=bulk.MAX,
        looked_at=listing.MAX_COMPARED,
        older=older,
        back=bulk_request.back(),
    )


@pages.post("/jobs/confirm")
def do_to_jobs() -> ResponseReturnValue:
    """Apply the action, and report how many jobs it changed."""
    bulk_request = BulkRequest.of(request.form)
    if bulk_request is None:
        return redirect(url_for("pages.jobs"))
    result = bulk_request.do(current_actor())
    is_good = result.done and bulk_request.action is not BulkAction.CANCEL
    flash(_done_text(bulk_request.action, result), "success" if is_good else "info")
    if result.refused:
        flash(_refused_text(bulk_request.action, result.refused), "warning")
    if result.after is None:
        return redirect(bulk_request.back())
    return redirect(url_for("pages.confirm_jobs", **bulk_request.address_after(result.after)))


def _done_text(action: BulkAction, result: BulkResult) -> str:
    if not result.done:
        return f"No job was {_DONE[action]}."
    return f"1 job was {_DONE[action]}." if result.done == 1 else f"{result.done:,} jobs were {_DONE[action]}."


def _refused_text(action: BulkAction, refused: Counter[str]) -> str:
    reasons = "; ".join(f"{number:,} {'is' if number == 1 else 'are'} {reason}" for reason, number in refused.items())
    return f"{refused.total():,} {'was' if refused.total() == 1 else 'were'} not {_DONE[action]}: {reasons}."


@pages.post("/jobs/<uuid:job_id>/delete")
def delete_job(job_id: UUID) -> ResponseReturnValue:
    """Delete one job with its results."""
    try:
        bulk.delete(current_actor(), job_id)
    except RetllmError as error:
        return refused(error, url_for("pages.job", job_id=job_id))
    flash("Job deleted.", "success")
    return redirect(url_for("pages.jobs"))
