"""The page of one job: the cost of a poll, rights, attempts, and the heat map."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.db.enums import AttemptOutcome, ItemKind, JobState, Stage, UnitState, Visibility
from retllm.db.jobs import Attempt, Unit
from retllm.db.operations import PausedQueue
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item, new_id
from retllm.fine.trace import Trace, Weights
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}


@contextmanager
def _queries(served: Services) -> Iterator[list[str]]:
    """Record the SQL statements of the app."""
    engine = served.sessions.kw["bind"]
    sent: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def non_member(app: Flask, searched: Searched, bob: Caller) -> Visitor:
    """Bob, who sees the collection of the search because it is open."""
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Collection).values(visibility=Visibility.EVERYONE))
    visitor = Visitor(app.test_client())
    visitor.log_in("bob")
    return visitor


# the cost of a poll


def test_a_poll_without_changes_takes_one_sql_query_besides_authentication(reader: Visitor, searched: Searched) -> None:
    address = f"/jobs/{searched.id}/live"
    first = reader.client.get(address, headers=SCRIPT)
    assert first.status_code == 200
    with _queries(searched.served) as sent:
        again = reader.client.get(address, headers={**SCRIPT, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.get_data()) == (304, b"")
    assert len(sent) == 2, sent
    assert "users" in sent[0]


def test_a_poll_after_a_change_returns_the_fragment(reader: Visitor, searched: Searched) -> None:
    address = f"/jobs/{searched.id}/live"
    known = reader.client.get(address, headers=SCRIPT).headers["ETag"]
    searched.score(2, 0.75)
    fresh = reader.client.get(address, headers={**SCRIPT, "If-None-Match": known})
    assert fresh.status_code == 200
    assert "1 of 3 scored" in Page(fresh).text
    assert fresh.headers["ETag"] != known


def test_the_number_of_sql_queries_does_not_grow_with_the_result(reader: Visitor, searched: Searched) -> None:
    def sent() -> int:
        with _queries(searched.served) as statements:
            assert reader.get(f"/jobs/{searched.id}").status == 200
        return len(statements)

    before = sent()
    with transaction(searched.served.sessions) as session:
        first = session.get_one(Item, searched.items[0])
        for place in range(20):
            item = Item(
                id=new_id(),
                collection_id=first.collection_id,
                kind=ItemKind.TEXT,
                name=f"text {place}",
                content_sha256=f"{place}",
                text="t",
                size_bytes=1,
            )
            session.add(item)
            session.flush()
            session.add(Candidate(token=new_id(), search_id=searched.id, item_id=item.id, coarse_rank=4 + place))
            session.add(Unit(job_id=searched.id, stage=Stage.FINE, seq=1 + place, payload={"items": [str(item.id)]}))
    assert sent() == before


# rights


def test_accounts_without_editing_rights_cannot_cancel_retry_or_delete_a_job(
    non_member: Visitor, searched: Searched
) -> None:
    actions = [f"/jobs/{searched.id}/{deed}" for deed in ("cancel", "retry", "delete")]
    page = non_member.get(f"/jobs/{searched.id}")
    assert page.status == 200
    searched.finish([1, 2, 3], JobState.PARTIAL)
    page = non_member.get(f"/jobs/{searched.id}")
    assert not {form.attributes.get("action") for form in page.all("form")} & set(actions)
    for action in actions:
        answer = non_member.client.post(action, data={"csrf_token": non_member.token()}, follow_redirects=True)
        assert answer.status_code == 403
        assert "belongs to another account" in Page(answer).one("p", role="alert").text
    # but can search and compare
    assert page.all("a", href=f"/compare?of={searched.id}")
    assert page.all("textarea", id="text")


def test_the_owner_is_offered_the_actions_that_the_state_allows(reader: Visitor, searched: Searched) -> None:
    def offered() -> set[str]:
        forms = reader.get(f"/jobs/{searched.id}").all("form", method="post")
        return {(form.attributes.get("action") or "").rpartition("/")[2] for form in forms} & {
            "cancel",
            "retry",
            "delete",
        }

    assert offered() == {"cancel"}
    searched.finish([1, 2, 3], JobState.PARTIAL)
    assert offered() == {"retry", "delete"}
    searched.finish([1, 2, 3])
    assert offered() == {"delete"}


# the steps


def test_the_steps_of_a_search_are_shown_with_their_progress(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.5)
    steps = reader.get(f"/jobs/{searched.id}").all("li", class_="step")
    assert [step.text.split(":")[0].strip() for step in steps] == [
        "Queued",
        "Coarse stage",
        "Fine stage",
        "Final order",
    ]
    assert "1 of 3 scored" in steps[2].text
    assert "not started" in steps[3].text


def test_a_waiting_job_names_the_paused_queue(reader: Visitor, searched: Searched) -> None:
    with transaction(searched.served.sessions) as session:
        session.add(PausedQueue(queue="score", reason="the card is hot"))
        session.add(PausedQueue(queue="embed", reason="for nothing here"))
    state = reader.get(f"/jobs/{searched.id}").one("div", class_="progress-state").text
    assert "paused the queue “score”" in state
    assert "the card is hot" in state
    assert "for nothing here" not in state
    searched.finish([1, 2, 3])
    assert "paused" not in reader.get(f"/jobs/{searched.id}").one("div", class_="progress-state").text


def test_a_search_without_a_good_match_shows_the_deciding_numbers(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.1)
    searched.finish([1, 2, 3])
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Score).values(log_odds=-2.25))
        session.execute(sa.update(Search).values(no_match=True, match_threshold=1.5))
    told = reader.get(f"/jobs/{searched.id}").one("div", class_="alert-warning").text
    assert "No good match." in told
    assert "the best score is 0.095" in told
    assert "a match needs 0.82 or more" in told


def test_the_numbers_of_no_good_match_are_those_of_judged_candidates(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.1)
    searched.score(2, None, error="The picture can't be read.")
    searched.finish([1, 2, 3])
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Search).values(no_match=True))
    told = reader.get(f"/jobs/{searched.id}").one("div", class_="alert-warning").text
    assert "None of the 1 judged candidates is likely enough" in told
    assert "The others could not be judged" in told


def test_a_search_of_which_nothing_was_judged_says_so_wherever_it_is_shown(reader: Visitor, searched: Searched) -> None:
    for rank in (1, 2, 3):
        searched.score(rank, None, error="The server refuses the picture (400).")
    assert "Not judged" not in reader.get(f"/jobs/{searched.id}").text
    searched.finish([1, 2, 3])
    page = reader.get(f"/jobs/{searched.id}")
    told = page.one("div", class_="alert-danger").text
    assert "Not judged. The scorer judged none of the 3 candidates." in told
    assert "The server refuses the picture (400)." in told
    state = page.one("div", class_="progress-state").text
    assert "not judged" in state
    assert "final order" not in state
    steps = [step.text for step in page.all("li", class_="step")]
    assert ["failed" in step for step in steps] == [False, False, True, True]
    assert "not judged" in steps[-1]
    said = page.one("p", **{"data-part": "said"}).text
    assert "No candidate was judged." in said
    assert "final" not in said
    assert "Not judged. Nearest:" in reader.get("/jobs").text


def test_an_error_that_several_candidates_have_is_shown_once(reader: Visitor, searched: Searched) -> None:
    same, other = "The server refuses the picture (400).", "The picture can't be read."
    for rank, error in enumerate((same, other, same), 1):
        searched.score(rank, None, error=error)
    searched.finish([1, 2, 3])
    page = reader.get(f"/jobs/{searched.id}")
    assert page.one("div", data_part="not-scored").text == f"2 candidates were not scored: {same}"
    told = [error.text for error in page.all("p", class_="error")]
    assert told == ["Not scored, as said above", f"Not scored: {other}", "Not scored, as said above"]


# attempts


def _add_dead_units(searched: Searched, count: int) -> None:
    with transaction(searched.served.sessions) as session:
        for seq in range(1, count + 1):
            session.add(
                Unit(
                    job_id=searched.id,
                    stage=Stage.FINE,
                    seq=seq,
                    payload={"items": []},
                    state=UnitState.DEAD,
                    attempt=4,
                    worker="host:7",
                    error="OSError: <disk>",
                    traceback="Traceback: <where>",
                )
            )


def test_attempts_are_paged_and_filtered_by_state(reader: Visitor, searched: Searched) -> None:
    _add_dead_units(searched, 60)
    page = reader.get(f"/jobs/{searched.id}/attempts")
    assert len(page.all("th", scope="row")) == 50
    (link,) = [e.attributes["href"] or "" for e in page.all("a") if e.text == "Next page"]
    page = reader.get(link)
    assert next(e.text for e in page.all("th", scope="row")) == "Fine 51"
    assert len(page.all("th", scope="row")) == 11
    assert not [e for e in page.all("a") if e.text == "Next page"]
    page = reader.get(f"/jobs/{searched.id}/attempts?state=leased")
    assert [e.text for e in page.all("th", scope="row")] == ["Fine 1"]
    assert "No units in this state" in reader.get(f"/jobs/{searched.id}/attempts?state=split").text


@pytest.mark.parametrize("after", ["fine", "fine.", "fine.-1", "fine.x", "nothing.1", "fine.99999999999999", "fine.²"])
def test_an_invalid_page_of_attempts_returns_404(reader: Visitor, searched: Searched, after: str) -> None:
    assert reader.get(f"/jobs/{searched.id}/attempts", query_string={"after": after}).status == 404


def test_tracebacks_are_shown_only_to_accounts_that_may_change_the_job(
    reader: Visitor, non_member: Visitor, searched: Searched
) -> None:
    _add_dead_units(searched, 1)
    page = reader.get(f"/jobs/{searched.id}/attempts?state=dead")
    assert page.one("pre").text == "Traceback: <where>"
    seen = non_member.get(f"/jobs/{searched.id}/attempts?state=dead")
    assert "OSError: <disk>" in seen.text
    assert "where" not in seen.one("table").text


def test_all_attempts_at_a_unit_are_listed_if_there_are_several(reader: Visitor, searched: Searched) -> None:
    with transaction(searched.served.sessions) as session:
        unit_id = session.scalar(sa.select(Unit.id).filter_by(job_id=searched.id, stage=Stage.FINE, seq=0))
        session.execute(sa.delete(Attempt))
        lost = {"outcome": AttemptOutcome.LOST, "ended_at": sa.func.now(), "error": "its <lease> ran out"}
        session.add(Attempt(unit_id=unit_id, number=1, worker="host:7", **lost))
    assert not [e for e in reader.get(f"/jobs/{searched.id}/attempts").all("summary") if "All attempts" in e.text]
    with transaction(searched.served.sessions) as session:
        session.add(Attempt(unit_id=unit_id, number=2, worker="host:8"))
    (trail,) = [e for e in reader.get(f"/jobs/{searched.id}/attempts").all("details") if "All attempts" in e.text]
    assert "1: lost" in trail.text
    assert ": its <lease> ran out 2: running" in trail.text
    assert trail.text.endswith("host:8")


def test_the_page_of_an_index_job_lists_its_attempts(reader: Visitor, texts: str, ada: Caller) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    part = reader.get(f"/jobs/{job}").one("div", data_part="attempts")
    assert "Embedding 1" in part.text
    assert "ready" in part.text


# the heat map


def _add_trace(searched: Searched, place: int = 1, **changes: object) -> None:
    trace = Trace(
        uncertainty=(0.25, 0.875, 0.5, 0.125),
        armed_layer=2,
        plain_score=0.5,
        injected_score=0.75,
        map_layer=2,
        weights=Weights.of([0.0, 0.0, 0.0, 1.0]),
        shown=("query",),
        grids=((2, 2),),
    )
    with transaction(searched.served.sessions) as session:
        session.execute(
            sa.update(Score).where(Score.item_id == searched.items[place - 1]).values(trace=trace.as_json() | changes)
        )
        session.execute(sa.update(Search).values(trace=True, query_picture_key="queries/x/picture"))


def test_the_heat_map_is_linked_for_candidates_with_a_trace_and_shows_its_values(
    reader: Visitor, searched: Searched
) -> None:
    searched.score(1, 0.75)
    searched.score(2, 0.5)
    _add_trace(searched)
    (link,) = reader.get(f"/jobs/{searched.id}").all("a", data_map=str(searched.items[0]))
    page = reader.get(link.attributes["href"] or "")
    assert page.one("h1").text
    drawing = page.one("svg", class_="heat-map")
    assert "bottom right" in (drawing.attributes["aria-label"] or "")
    assert drawing.attributes["viewbox"] == "0 0 2 2"
    (cell,) = [e for e in page.all("rect") if e.attributes.get("fill-opacity") == "1.0"]
    assert (cell.attributes["x"], cell.attributes["y"]) == ("1", "1")
    assert page.all("img", src=f"/api/v1/searches/{searched.id}/rendition")
    for told in ("at layer 2", "0.7500", "0.5000", "+0.2500", "0.875"):
        assert told in page.text
    # as a fragment for the script
    piece = reader.get(link.attributes["href"] or "", headers=SCRIPT)
    assert piece.all("svg", class_="heat-map")
    assert not piece.all("body")


def test_the_heat_map_has_no_inline_styles(reader: Visitor, searched: Searched) -> None:
    """The content security policy would drop it."""
    searched.score(1, 0.75)
    _add_trace(searched)
    page = reader.get(f"/jobs/{searched.id}/candidates/{searched.items[0]}/map")
    assert not [e for e in page.elements if "style" in e.attributes or e.tag == "style"]


def test_the_heat_map_page_explains_a_missing_trace(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.75)
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Search).values(query_picture_key="queries/x/picture"))
    address = f"/jobs/{searched.id}/candidates/{searched.items[0]}/map"
    page = reader.get(address)
    assert "did not save" in page.text
    assert page.all("a", href=f"/search?again={searched.id}&trace=1")
    assert "not scored yet" in reader.get(f"/jobs/{searched.id}/candidates/{searched.items[1]}/map").text
    searched.finish([1, 2, 3])
    assert "did not save re-injection maps" in reader.get(f"/jobs/{searched.id}").text


def test_a_search_whose_scorer_runs_on_a_server_offers_no_map(reader: Visitor, searched: Searched) -> None:
    """Such a scorer has none, and a search that asks for one is refused."""
    searched.score(1, 0.75)
    searched.finish([1, 2, 3])
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Search).values(query_picture_key="queries/x/picture", scorer="openai:org/judge"))
    for address in (f"/jobs/{searched.id}", f"/jobs/{searched.id}/candidates/{searched.items[0]}/map"):
        page = reader.get(address)
        assert not [e for e in page.all("a") if "trace=1" in str(e.attributes.get("href"))]
    assert "There is no map: the scorer openai:org/judge runs on a server" in page.text


def test_a_remark_and_the_reason_of_a_missing_score_are_shown_with_the_candidate(
    reader: Visitor, searched: Searched
) -> None:
    searched.score(1, 0.75)
    searched.score(2, 0.5)
    remark, reason = "The picture was padded to 300 × 2 pixels for the model.", "a.png: The stored file is missing."
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Search).values(query_picture_key="queries/x/picture"))
        session.execute(sa.update(Score).where(Score.item_id == searched.items[0]).values(remark=remark))
        session.execute(sa.update(Score).where(Score.item_id == searched.items[1]).values(score=None, error=reason))
    page = reader.get(f"/jobs/{searched.id}")
    assert [shown.text for shown in page.all("p", class_="remark")] == [remark]
    assert f"Not scored: {reason}" in page.text
    assert f"was not scored: {reason}" in reader.get(f"/jobs/{searched.id}/candidates/{searched.items[1]}/map").text


def test_the_heat_map_page_says_if_neither_query_nor_item_has_a_picture(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.75)
    page = reader.get(f"/jobs/{searched.id}/candidates/{searched.items[0]}/map")
    assert "neither the query nor this item has a picture" in page.text
    searched.finish([1, 2, 3])
    assert "did not save" not in reader.get(f"/jobs/{searched.id}").text


def test_heat_maps_of_unknown_candidates_and_of_hidden_jobs_return_404(
    app: Flask, reader: Visitor, searched: Searched, bob: Caller
) -> None:
    address = f"/jobs/{searched.id}/candidates"
    assert reader.get(f"{address}/{uuid.uuid4()}/map").status == 404
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    assert stranger.get(f"{address}/{searched.items[0]}/map").status == 404
    assert stranger.get(f"/jobs/{searched.id}/attempts").status == 404


@pytest.mark.parametrize("view", ["s", "m", "l", "table"])
def test_results_are_shown_as_pictures_or_numbers_and_the_browser_keeps_it(
    reader: Visitor, searched: Searched, view: str
) -> None:
    searched.score(1, 0.75)
    searched.finish([1, 2, 3])
    assert reader.get(f"/jobs/{searched.id}").all("ol", class_="results-m")
    for address in (f"/jobs/{searched.id}?view={view}", f"/jobs/{searched.id}", f"/jobs/{searched.id}?view=unknown"):
        page = reader.get(address)
        (results,) = [one for one in page.all("ol") if "results" in (one.attributes.get("class") or "").split()]
        classes = (results.attributes["class"] or "").split()
        assert ("results-grid" in classes, f"results-{view}" in classes) == (view != "table", view != "table")
        assert "0.7500" in page.all("div", class_="measures")[0].text
        chosen = page.one("a", aria_current="true", href=f"/jobs/{searched.id}?view={view}#results-title")
        assert "btn-secondary" in (chosen.attributes["class"] or "")
