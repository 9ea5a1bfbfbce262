"""Searches are compared by rank and settings."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor
from tests.unit.web.pages.past_searches import items_of, store_search

from retllm.db.enums import DecidedBy, JobState
from retllm.db.reviews import Judgment
from retllm.db.searches import Candidate, Score, Search
from retllm.db.session import transaction
from retllm.search.submit import question_of
from retllm_web.http.services import Services


def _cells(page: Page, item: str) -> list[str]:
    """Return an item's row in the comparison."""
    (row,) = [e for e in page.all("tr") if "data-row" in e.attributes and item in e.text]
    return row.text.split(item, 1)[1].split("coarse")


def test_searches_are_compared_by_rank_and_settings(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    robin, wren, crow = items_of(served, indexed)
    first = store_search(served, ada.user.id, indexed, "a bird", [robin, wren, crow])
    second = store_search(served, ada.user.id, indexed, "a bird", [wren, robin], mode="choice", fusion_weight=0.5)
    with transaction(served.sessions) as session:
        session.add(
            Judgment(
                collection_id=uuid.UUID(indexed), question=question_of("a bird", None), item_id=wren, relevant=True
            )
        )
    page = reader.get(f"/compare?of={first}&of={second}")
    assert page.one("h1").text == "Compare 2 searches"
    settings = {e.text for e in page.all("th", scope="row")}
    table = page.all("table")[1].text
    assert "What the model answers true_false choice" in table
    assert "Weight of the coarse stage 0 0.5" in table
    assert "Candidates (k)" not in table
    assert "Candidates (k)" in settings, "told among those that are the same"
    assert "up by 1" in _cells(page, "wren")[1]
    assert "down by 1" in _cells(page, "robin")[1]
    (crows,) = [e.text for e in page.all("tr") if "data-row" in e.attributes and "a crow" in e.text]
    assert "not a candidate" in crows
    (wrens,) = [e.text for e in page.all("tr") if "data-row" in e.attributes and "wren" in e.text]
    assert wrens.count("relevant") == 2
    agreement = page.all("table")[0].text
    assert "2 0 % – – -1.00" in agreement
    assert "different collections" not in page.text


def test_a_running_search_is_compared_by_its_provisional_order(
    reader: Visitor, searched: Searched, indexed: str, ada: Caller, served: Services
) -> None:
    searched.score(3, 0.9)
    done = store_search(served, ada.user.id, indexed, "a bird", searched.items)
    page = reader.get(f"/compare?of={done}&of={searched.id}")
    assert "provisional order" in page.text
    (row,) = [e.text for e in page.all("tr") if "data-row" in e.attributes and "a crow" in e.text]
    assert "up by 2" in row
    assert "different queries" in page.text


def test_comparing_searches_of_different_collections_says_so(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    other = ada.post("/collections", json={"name": "Boats"}).json["id"]
    keys = [store_search(served, ada.user.id, key, "a bird", items_of(served, key)) for key in (indexed, other)]
    page = reader.get(f"/compare?of={keys[0]}&of={keys[1]}")
    assert page.status == 200
    assert "different collections" in page.text


def test_invalid_comparisons_are_explained_and_hidden_searches_return_404(
    app: Flask, reader: Visitor, searched: Searched, indexed: str, ada: Caller, bob: Caller, served: Services
) -> None:
    index = ada.post(f"/collections/{indexed}/index").json["id"]
    many = [store_search(served, ada.user.id, indexed, f"{n}", []) for n in range(7)]
    assert "one of these jobs is an index job" in reader.get(f"/compare?of={searched.id}&of={index}").text
    assert "2 to 6 searches can be compared" in reader.get("/compare?" + "&".join(f"of={key}" for key in many)).text
    assert "Only searches can be compared" in reader.get(f"/compare?of={index}").text
    assert "Select two to six searches" in reader.get("/compare").text
    for query in ("of=x", f"of={searched.id}&of={uuid.uuid4()}", f"of={uuid.uuid4()}"):
        assert reader.get(f"/compare?{query}").status == 404
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    for query in (f"of={searched.id}", f"of={many[0]}&of={many[1]}"):
        assert stranger.get(f"/compare?{query}").status == 404


def test_a_comparison_of_one_search_offers_searches_with_the_same_query_first(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    asked, again, other = (
        store_search(served, ada.user.id, indexed, text, []) for text in ("a bird", "a bird", "a boat")
    )
    page = reader.get(f"/compare?of={asked}")
    same, others = page.all("tbody")
    assert [e.attributes["value"] for e in page.all("input", name="of")] == [asked, again, other]
    assert "a bird" in same.text
    assert "a boat" in others.text


def test_a_comparison_takes_a_constant_number_of_sql_queries(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    items = items_of(served, indexed)
    few = [store_search(served, ada.user.id, indexed, "a bird", items[:1]) for _ in range(3)]
    many = [store_search(served, ada.user.id, indexed, "a bird", items) for _ in range(3)]
    engine = served.sessions.kw["bind"]
    counts = []
    for keys in (few, many):
        statements: list[str] = []

        def note(*args: Any, statements: list[str] = statements) -> None:
            statements.append(args[2])

        sa.event.listen(engine, "before_cursor_execute", note)
        reader.get("/compare?" + "&".join(f"of={key}" for key in keys))
        sa.event.remove(engine, "before_cursor_execute", note)
        counts.append(len(statements))
    assert counts[0] == counts[1] < 12


def test_scores_of_losers_differ_visibly_and_an_entropy_that_decided_is_told(
    reader: Visitor, indexed: str, ada: Caller, served: Services
) -> None:
    items = items_of(served, indexed)
    key = store_search(served, ada.user.id, indexed, "a bird", items)
    with transaction(served.sessions) as session:
        for item, score in zip(items, (0.9, 3.2e-5, 4.1e-7), strict=True):
            ours = sa.and_(Score.search_id == uuid.UUID(key), Score.item_id == item)
            session.execute(sa.update(Score).where(ours).values(score=score, entropy=0.0123))
        session.execute(
            sa.update(Candidate)
            .where(Candidate.search_id == uuid.UUID(key), Candidate.item_id != items[0])
            .values(decided_by=DecidedBy.ENTROPY)
        )
    other = store_search(served, ada.user.id, indexed, "a bird", items)
    page = reader.get(f"/compare?of={key}&of={other}")
    rows = [e.text for e in page.all("tr") if "data-row" in e.attributes]
    assert "score 0.9000 · coarse 3" in rows[0]
    assert "score 0.000032, entropy 0.0123 · coarse 2" in rows[1]
    assert "score 0.00000041, entropy 0.0123 · coarse 1" in rows[2]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_the_order_of_a_search_that_ended_early_is_not_provisional(
    reader: Visitor, indexed: str, ada: Caller, served: Services, state: JobState
) -> None:
    items = items_of(served, indexed)
    keys = [store_search(served, ada.user.id, indexed, "a bird", items, state) for _ in range(2)]
    with transaction(served.sessions) as session:
        session.execute(sa.update(Search).values(final_at=None))
    for page in (reader.get(f"/jobs/{keys[0]}"), reader.get(f"/compare?of={keys[0]}&of={keys[1]}")):
        assert "unfinished order" in page.text
        assert "provisional" not in page.text
