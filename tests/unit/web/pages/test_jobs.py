"""The pages of jobs and searches."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.cli import show
from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.history import index_builds
from retllm.history.same_errors import MAX_ERRORS
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}


def _order(page: Page) -> list[int]:
    """Return the coarse ranks in the order of the page."""
    return [int(e.text.rpartition("coarse ")[2]) for e in page.all("div", class_="place")]


def _changes(page: Page) -> list[str]:
    return [e.text for e in page.all("span", class_="change")]


# the result


def test_candidates_are_shown_in_coarse_order_before_they_are_scored(reader: Visitor, searched: Searched) -> None:
    page = reader.get(f"/jobs/{searched.id}")
    assert _order(page) == [1, 2, 3]
    assert _changes(page) == []
    assert "provisional order" in page.text
    assert "0 of 3 scored by some scorer ·" in page.text
    assert "<b>" not in page.html.replace("&lt;b&gt;", "")
    # without scripts the page reloads itself
    assert page.one("meta", http_equiv="refresh").attributes["content"] == "2"


def test_the_live_fragment_reorders_candidates_as_scores_arrive(reader: Visitor, searched: Searched) -> None:
    searched.score(3, 0.9)
    live = reader.get(f"/jobs/{searched.id}/live", headers=SCRIPT)
    assert _order(live) == [3, 1, 2]
    assert _changes(live) == ["▲ up by 2"]
    assert live.one("div", id="job").attributes["data-over"] == "false"
    assert "1 of 3 scored" in live.text
    searched.score(1, 0.2)
    searched.score(2, 0.5)
    searched.finish([3, 2, 1])
    live = reader.get(f"/jobs/{searched.id}/live", headers=SCRIPT)
    assert _order(live) == [3, 2, 1]
    assert _changes(live) == ["▲ up by 2", "= same rank", "▼ down by 2"]
    assert live.one("div", id="job").attributes["data-over"] == "true"
    assert "final order" in live.text
    assert "provisional" not in live.text


def test_the_page_and_its_live_fragment_have_the_same_parts(reader: Visitor, searched: Searched) -> None:
    """Otherwise the script would replace unchanged parts."""
    searched.score(3, 0.9)
    searched.finish([3, 1, 2])
    page, live = reader.get(f"/jobs/{searched.id}"), reader.get(f"/jobs/{searched.id}/live", headers=SCRIPT)
    parts = {e.attributes["data-part"]: e.text for e in live.elements if "data-part" in e.attributes}
    assert parts == {e.attributes["data-part"]: e.text for e in page.elements if "data-part" in e.attributes}
    assert not page.all("meta", http_equiv="refresh")


def test_a_result_shows_its_models_settings_and_measures(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.4321987, entropy=0.25)
    page = reader.get(f"/jobs/{searched.id}")
    text = page.text
    for fact in (
        "some scorer",
        "rev-of-scorer",
        "rev-of-embedder",
        "alpha = 0.25",
        "trigger = fixed",
        "fixed_layer = 3",
        "true_false",
        "3 decimals",
        "Fine stage",
        "3 items",
    ):
        assert fact in text
    measures = page.all("div", class_="measures")[0].text
    for number in ("0.4322", "0.250", "0.9000", "layer 2", "score"):
        assert number in measures
    assert page.all("strong", title="0.4321987")


@pytest.mark.parametrize(
    ("exact", "told"),
    [
        (None, "Searched 3 items; kinds"),
        (True, "Searched 3 items, each compared; kinds"),
        (False, "Searched about 3 items, the nearest found by an index; kinds"),
    ],
)
def test_a_result_says_whether_every_item_was_compared(
    reader: Visitor, searched: Searched, exact: bool | None, told: str
) -> None:
    with transaction(searched.served.sessions) as session:
        session.get_one(Search, searched.id).exact = exact
    page = reader.get(f"/jobs/{searched.id}")
    assert told in " ".join(page.one("div", id="job").text.replace("Searched", "Searched ").split())


def test_a_job_says_how_much_of_its_vector_index_is_built(
    reader: Visitor, texts: str, ada: Caller, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ada.post(f"/collections/{texts}/index", json={}).json["id"]
    page = reader.get(f"/jobs/{job_id}")
    assert "builds the vector index" not in page.text
    with transaction(served.sessions) as session:
        unit = session.scalars(sa.select(Unit).where(Unit.job_id == UUID(job_id)).limit(1)).one()
        unit.payload, unit.state = {"items": [], "index": str(new_id())}, UnitState.LEASED
    monkeypatch.setattr(index_builds, "build_progress", lambda _, keys: dict.fromkeys(keys, 0.456))
    page = reader.get(f"/jobs/{job_id}")
    assert "The database builds the vector index of this collection: 45 %." in page.text


def test_a_failed_candidate_shows_its_error(reader: Visitor, searched: Searched) -> None:
    with transaction(searched.served.sessions) as session:
        session.get_one(Candidate, (searched.id, searched.items[1])).error = "RuntimeError: out of memory"
    searched.score(1, 0.9)
    page = reader.get(f"/jobs/{searched.id}")
    (error,) = page.all("p", class_="error")
    assert "Not scored: RuntimeError: out of memory" in error.text


def test_an_answer_without_a_score_shows_its_error(reader: Visitor, searched: Searched) -> None:
    with transaction(searched.served.sessions) as session:
        session.add(
            Score(
                token=new_id(),
                search_id=searched.id,
                item_id=searched.items[0],
                scorer_version="v",
                tokens=10,
                error='The model\'s answer contains no number: "Well".',
            )
        )
    searched.finish([1, 2, 3])
    page = reader.get(f"/jobs/{searched.id}")
    (error,) = page.all("p", class_="error")
    assert "contains no number" in error.text


def test_a_score_without_entropy_is_shown(reader: Visitor, searched: Searched) -> None:
    searched.score(1, 0.75, entropy=None)
    measures = reader.get(f"/jobs/{searched.id}").all("div", class_="measures")[0].text
    assert "0.7500" in measures


@pytest.mark.parametrize("source", ["", "-copy:1600"])
def test_a_result_shows_the_picture_budget_of_its_scorer_version(
    reader: Visitor, searched: Searched, source: str
) -> None:
    with transaction(searched.served.sessions) as session:
        session.get_one(Search, searched.id).scorer_version = f"0123456789abcdef-1024{source}"
    explained = reader.get(f"/jobs/{searched.id}").one("div", id="job").text
    assert "at most 1,024 tokens per picture" in explained


def test_a_result_of_a_scorer_on_a_server_says_that_nothing_was_re_injected(
    reader: Visitor, searched: Searched
) -> None:
    assert "on a server" not in reader.get(f"/jobs/{searched.id}").one("div", id="job").text
    with transaction(searched.served.sessions) as session:
        session.get_one(Search, searched.id).scorer = "openai:org/model"
    assert "none, since the scorer runs on a server" in reader.get(f"/jobs/{searched.id}").one("div", id="job").text


@pytest.mark.parametrize("none", [True, False, None])
def test_a_result_says_if_no_candidate_is_a_good_match(reader: Visitor, searched: Searched, none: bool | None) -> None:
    searched.score(1, 0.1)
    searched.finish([1, 2, 3])
    with transaction(searched.served.sessions) as session:
        session.execute(sa.update(Search).where(Search.id == searched.id).values(no_match=none, match_threshold=1.25))
    page = reader.get(f"/jobs/{searched.id}")
    assert ("no good match" in page.one("div", class_="progress-state").text) is (none is True)
    explained = page.one("div", id="job").text
    assert ("threshold of 1.25 log-odds" in explained) is (none is not None)


def test_adaptive_and_fusion_settings_are_shown(reader: Visitor, searched: Searched) -> None:
    with transaction(searched.served.sessions) as session:
        search = session.get_one(Search, searched.id)
        search.adaptive = {"first": 2, "step": 5, "clear_score": 0.0, "clear_gap": 2.0}
        search.fusion_weight, search.mode = 0.125, "verbalized"
    text = reader.get(f"/jobs/{searched.id}").one("div", id="job").text
    for fact in ("first = 2", "step = 5", "0.125", "verbalized"):
        assert fact in text


def test_a_deleted_item_stays_in_the_result_without_a_link(reader: Visitor, searched: Searched, ada: Caller) -> None:
    ada.delete(f"/items/{searched.items[0]}")
    page = reader.get(f"/jobs/{searched.id}")
    assert _order(page) == [1, 2, 3]
    shown = page.all("div", class_="what")[0].text
    assert "in the trash" in shown
    assert "a robin" not in shown
    assert not page.all("a", href=f"/items/{searched.items[0]}")


# cancelling, stages and lists of jobs


def test_a_job_is_cancelled_and_retried_from_its_page(reader: Visitor, texts: str, ada: Caller) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    reader.get(f"/jobs/{job}")
    page = reader.send(f"/jobs/{job}/cancel")
    assert "cancelled" in page.one("div", class_="progress-state").text
    assert page.one("div", id="job").attributes["data-over"] == "true"
    page = reader.send(f"/jobs/{job}/retry")
    assert "queued" in page.one("div", class_="progress-state").text


def test_cancelling_a_finished_job_shows_an_error(reader: Visitor, searched: Searched) -> None:
    reader.get(f"/jobs/{searched.id}")
    token = reader.token()
    searched.finish([1, 2, 3])
    page = Page(reader.client.post(f"/jobs/{searched.id}/cancel", data={"csrf_token": token}, follow_redirects=True))
    assert "has already ended" in page.one("div", role="alert").text
    assert not page.all("form", action=f"/jobs/{searched.id}/cancel")
    assert not page.all("form", action=f"/jobs/{searched.id}/retry")


def test_identical_errors_of_several_units_are_shown_once(
    reader: Visitor, texts: str, ada: Caller, served: Services
) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    with transaction(served.sessions) as session:
        unit = session.scalars(sa.select(Unit).where(Unit.job_id == job)).one()
        unit.state, unit.attempt, unit.error = UnitState.DEAD, 4, "OSError: disk"
        for seq in (1, 2):
            session.add(
                Unit(
                    job_id=unit.job_id,
                    stage=unit.stage,
                    seq=seq,
                    payload={"items": []},
                    state=UnitState.DEAD,
                    attempt=4,
                    error="OSError: disk",
                )
            )
        found = session.get_one(Job, unit.job_id)
        found.state, found.error, found.finished_at = JobState.FAILED, "OSError: disk", sa.func.now()
    page = reader.get(f"/jobs/{job}")
    (line,) = [e.text for e in page.all("li", class_="problem")]
    assert "failed after 4 attempts: OSError: disk" in line
    assert "3 units" in line
    assert page.all("form", action=f"/jobs/{job}/retry")
    assert "100 %" not in page.text


def test_a_job_that_waits_for_a_server_says_so_and_shows_no_failure(
    reader: Visitor, texts: str, ada: Caller, served: Services
) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    with transaction(served.sessions) as session:
        unit = session.scalars(sa.select(Unit).where(Unit.job_id == job)).one()
        unit.error = "The server of the scorer openai:m is away: it can't be reached."
        unit.waits_until = sa.func.now() + sa.text("interval '90 minutes 30 seconds'")
    page = reader.get(f"/jobs/{job}")
    state = page.one("div", data_part="state").text
    assert "it can't be reached. 1 unit waits for it, for 90 more minutes at most." in state
    assert not page.all("li", class_="problem")
    row = reader.get("/jobs").one("tr", data_key=job).text
    assert "waits for a server" in row
    assert show.job_result(ada.get(f"/jobs/{job}").json) == "queued, waits for a server"


def test_of_more_units_than_a_view_has_the_errors_of_the_page_says_at_least(
    reader: Visitor, texts: str, ada: Caller, served: Services
) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    with transaction(served.sessions) as session:
        for seq in range(1, MAX_ERRORS + 6):
            unit = Unit(id=new_id(), job_id=UUID(job), stage=Stage.EMBED, seq=seq, payload={"items": []})
            unit.error = "The server is away."
            unit.waits_until = sa.func.now() + sa.text("interval '90 minutes 30 seconds'")
            session.add(unit)
    state = reader.get(f"/jobs/{job}").one("div", data_part="state").text
    assert f"The server is away. At least {MAX_ERRORS} units wait for it, for 90 more minutes at most." in state


def test_an_index_job_shows_its_stages(reader: Visitor, texts: str, ada: Caller) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    page = reader.get(f"/jobs/{job}")
    assert page.one("h1").text == "Index job"
    stages = page.one("div", data_part="stages")
    assert "0 of 3" in stages.text
    assert "1 ready" in stages.text


def test_a_job_that_no_worker_has_started_shows_a_hint(
    reader: Visitor, texts: str, ada: Caller, served: Services
) -> None:
    job = ada.post(f"/collections/{texts}/index").json["id"]
    assert "No worker" not in reader.get(f"/jobs/{job}").text
    with transaction(served.sessions) as session:
        session.execute(
            sa.update(Job).where(Job.id == job).values(created_at=sa.func.now() - sa.text("interval '1 h'"))
        )
    assert "No worker has started this job yet" in reader.get(f"/jobs/{job}/live", headers=SCRIPT).text


def test_an_index_job_without_work_says_that_all_items_were_indexed(reader: Visitor, indexed: str, ada: Caller) -> None:
    job = ada.post(f"/collections/{indexed}/index").json["id"]
    assert "All items were already indexed" in reader.get(f"/jobs/{job}").text


def test_jobs_are_filtered_by_the_url(reader: Visitor, searched: Searched, indexed: str, ada: Caller) -> None:
    ada.post(f"/collections/{indexed}/index")

    def listed(query: str) -> list[str]:
        return [e.text.split(":")[0] for e in reader.get(f"/jobs?{query}").all("th", scope="row")]

    assert listed("") == ["Index", "Search"]
    assert listed("kind=search") == ["Search"]
    assert listed("state=succeeded") == ["Index"]
    assert listed("state=failed") == []
    assert "No jobs match" in reader.page.text  # type: ignore[union-attr]
    assert listed(f"collection={indexed}&kind=index") == ["Index"]
    page = reader.get(f"/jobs?state=succeeded&collection={indexed}")
    assert [e.attributes["value"] for e in page.all("option") if "selected" in e.attributes] == [indexed]
    ticked = [e.attributes["value"] for e in page.all("input", name="state") if "checked" in e.attributes]
    assert ticked == ["succeeded"]


def test_paging_keeps_the_filter(reader: Visitor, indexed: str, ada: Caller) -> None:
    for _ in range(31):
        ada.post(f"/collections/{indexed}/index")
    page = reader.get("/jobs?kind=index")
    assert len(page.all("th", scope="row")) == 30
    (link,) = [e.attributes["href"] or "" for e in page.all("a") if e.text == "Older jobs"]
    assert "kind=index" in link
    assert len(reader.get(link).all("th", scope="row")) == 1


def test_jobs_of_others_return_404_and_are_not_listed(app: Flask, searched: Searched, bob: Caller) -> None:
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    assert stranger.get(f"/jobs/{searched.id}").status == 404
    assert stranger.get(f"/jobs/{searched.id}/live", headers=SCRIPT).status == 404
    assert "No jobs yet" in stranger.get("/jobs").text
    token = Visitor(stranger.client)
    token.get("/")
    for action in ("cancel", "retry"):
        answer = stranger.client.post(f"/jobs/{searched.id}/{action}", data={"csrf_token": token.token()})
        assert answer.status_code == 404


def test_the_sources_of_candidates_are_named_with_the_reason_for_unused_ones(
    reader: Visitor, searched: Searched
) -> None:
    empty = {"revision": None, "searched": None, "found": None, "unused": None}
    sources = [
        {**empty, "name": "hf-hub:org/one", "kind": "embedder", "found": 3, "searched": 3},
        {**empty, "name": "hf-hub:org/two", "kind": "embedder", "unused": "It is not indexed yet."},
        {**empty, "name": "captions", "kind": "captions", "found": 1, "searched": 2},
    ]
    with transaction(searched.served.sessions) as session:
        search = session.get_one(Search, searched.id)
        search.coarse = {"captions": True, "embedders": [], "depth": 100, "rrf_k": 60, "sources": sources}
        first, second, _ = (session.get_one(Candidate, (searched.id, item)) for item in searched.items)
        first.sources = {"captions": {"rank": 1, "score": 0.5}, "hf-hub:org/one": {"rank": 2, "similarity": 0.25}}
        second.similarity, second.sources = None, {"captions": {"rank": 2, "score": 0.25}}
    page = reader.get(f"/jobs/{searched.id}")
    told = " ".join(page.one("div", id="job").text.split())
    assert "hf-hub:org/one (3 items), hf-hub:org/two (not used: It is not indexed yet.), captions (1 item)" in told
    assert "combined by reciprocal rank fusion" in told
    measures = [" ".join(one.text.split()) for one in page.all("div", class_="measures")]
    assert "captions (rank 1)" in measures[0]
    assert "hf-hub:org/one (rank 2)" in measures[0]
    assert "Similarity–" in measures[1].replace(" ", "")
    assert "Found by" not in measures[2]


def test_a_search_with_one_embedder_does_not_mention_rank_fusion(reader: Visitor, searched: Searched) -> None:
    assert "reciprocal" not in reader.get(f"/jobs/{searched.id}").one("div", id="job").text
