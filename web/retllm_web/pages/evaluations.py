"""Evaluations: reports of `retllm eval`, and repeated runs of reviewed queries."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from sqlalchemy.orm import Session

from retllm.db.enums import OVER_JOBS, RunSource
from retllm.db.reviews import EvaluationRun
from retllm.db.session import transaction
from retllm.errors import InvalidInput, RetllmError, TooLarge
from retllm.history.runs import state_of
from retllm.review import runs
from retllm.review.outcome import RunAnswer, RunOutcome, outcome_of
from retllm.review.reports import MAX_BYTES, Report, checked_report, read_report
from retllm.search.request import SearchRequest
from retllm_web.actions import evaluations
from retllm_web.http import conditional
from retllm_web.http.auth import current_actor
from retllm_web.http.errors import invalid
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.forms import Form
from retllm_web.pages.quality import quality_page
from retllm_web.render import report_charts

_RUNS = 30


@pages.get("/quality/runs")
def evaluation_runs() -> ResponseReturnValue:
    """Show the evaluations that this account may see."""
    return _list(Form())


def _list(form: Form, status: int = 200) -> ResponseReturnValue:
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        page, following = cut(runs.list_runs(session, current_actor(), after=after, limit=_RUNS + 1), _RUNS)
        names = runs.names_of(session, page)
    shown = render_template("quality_runs.html", runs=page, names=names, next=following, after=after, form=form)
    return shown, status


@pages.post("/quality/runs")
def upload_run() -> ResponseReturnValue:
    """Store an uploaded report."""
    form = Form.sent()
    try:
        report = _sent_report()
    except (InvalidInput, TooLarge) as error:
        # the error names fields of the report, not of the form
        form.errors["report"] = error.message
        return _list(form, error.http_status)
    try:
        run = evaluations.add(current_actor(), report, form.text("name") or None)
    except InvalidInput as error:
        form.refuse(error, otherwise="name")
        return _list(form, error.http_status)
    except RetllmError as error:
        return refused(error, url_for("pages.evaluation_runs"))
    return redirect(url_for("pages.evaluation_run", run_id=run.id))


def _sent_report() -> Report:
    upload = request.files.get("report")
    if upload is None or not upload.filename:
        raise InvalidInput("Choose the result.json of a `retllm eval` run.")
    return read_report(upload.stream.read(MAX_BYTES + 1))


@pages.post("/quality/<uuid:collection_id>/ask")
def ask_again(collection_id: UUID) -> ResponseReturnValue:
    """Run the reviewed queries of a collection again with the settings of the form."""
    form = Form.sent()
    try:
        run = evaluations.ask_again(current_actor(), collection_id, _request_of(form), form.text("name") or None)
    except InvalidInput as error:
        form.refuse(error)
        return quality_page(collection_id, form, error.http_status)
    except RetllmError as error:
        return refused(error, url_for("pages.collection_quality", collection_id=collection_id))
    return redirect(url_for("pages.evaluation_run", run_id=run.id))


def _request_of(form: Form) -> SearchRequest:
    settings: dict[str, Any] = dict(form.given("scorer", "k", "mode", "fusion_weight"))
    settings["injection"] = form.given("trigger", "alpha", "fixed_layer")
    if settings["injection"].get("trigger") != "fixed":
        # only the trigger "fixed" takes a layer
        settings["injection"].pop("fixed_layer", None)
    waves = form.text("adaptive")
    if waves in ("yes", "no"):
        settings["adaptive"] = waves == "yes"
    try:
        return SearchRequest.model_validate(settings)
    except ValidationError as error:
        raise invalid(error) from error


@pages.get("/quality/runs/<uuid:run_id>")
def evaluation_run(run_id: UUID) -> ResponseReturnValue:
    """Show one evaluation."""
    with transaction(services().sessions) as session:
        run = runs.run_for(session, current_actor(), run_id)
        shown = {
            "run": run,
            "names": runs.names_of(session, [run]).get(run.id, (None, None)),
            "may_delete": runs.may_delete(session, current_actor(), run),
        }
        more = _reviewed(session, run) if run.source is RunSource.REVIEWED else _uploaded(run)
    template = "quality_asked.html" if run.source is RunSource.REVIEWED else "quality_report.html"
    return render_template(template, **shown, **more)


@pages.get("/quality/runs/<uuid:run_id>/live")
def evaluation_run_live(run_id: UUID) -> ResponseReturnValue:
    """Return the live part of a run's page; 304 if nothing changed."""
    with transaction(services().sessions) as session:
        run = runs.run_for(session, current_actor(), run_id)
        states = runs.states_of(session, run)
        if (same := conditional.unchanged(run.id, sorted(states.items()), request.args.get("show"))) is not None:
            return same
        return render_template("_run_live.html", run=run, **_reviewed(session, run))


def _reviewed(session: Session, run: EvaluationRun) -> dict[str, Any]:
    """Return the template variables of a run of reviewed queries."""
    states = runs.states_of(session, run)
    outcome = outcome_of(session, run)
    total = len(run.report.get("searches", []))
    gone = total - sum(states.values())
    over = sum(count for state, count in states.items() if state in OVER_JOBS) + gone
    everything = request.args.get("show") == "all"
    changed = [answer for answer in outcome.answers if _has_changed(answer)]
    return {
        "states": states,
        "state": state_of(states),
        "outcome": outcome,
        "total": total,
        "over": over,
        "gone": gone,
        "everything": everything,
        "changed": len(changed),
        "answers": _in_order(outcome, changed, everything),
    }


def _has_changed(answer: RunAnswer) -> bool:
    return answer.now is None or answer.then is None or answer.now.verdict is not answer.then.verdict


def _in_order(outcome: RunOutcome, changed: list[RunAnswer], everything: bool) -> list[RunAnswer]:
    """Return the answers to show, the largest losses first."""

    def gain(answer: RunAnswer) -> float:
        if answer.now is None or answer.then is None:
            return 0.0
        return (answer.now.ndcg_fine or 0.0) - (answer.then.ndcg_fine or 0.0)

    return sorted(outcome.answers if everything else changed, key=gain)


def _uploaded(run: EvaluationRun) -> dict[str, Any]:
    """Return the template variables of a report."""
    report = checked_report(run.report)
    return {"report": report, "sections": report_charts.sections_of(report)}


@pages.post("/quality/runs/<uuid:run_id>/delete")
def delete_run(run_id: UUID) -> ResponseReturnValue:
    """Delete an evaluation."""
    try:
        run = evaluations.delete(current_actor(), run_id)
    except RetllmError as error:
        return refused(error, url_for("pages.evaluation_run", run_id=run_id))
    flash(f"Evaluation “{run.name}” deleted.", "success")
    return redirect(url_for("pages.evaluation_runs"))
