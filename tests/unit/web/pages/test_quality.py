"""The pages of reviews: contents, filters, and the number of SQL queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.db.jobs import Job
from retllm.db.searches import Candidate, Search
from retllm.db.session import transaction
from retllm.db.tables import Collection, new_id
from retllm.search.submit import question_of
from retllm_web.http.services import Services


def add_search(
    served: Services,
    searched: Searched,
    text: str,
    final: list[int],
    *,
    days: int = 0,
    mode: str = "choice",
    scorer: str | None = None,
):
    """Add a search with the candidates of ``searched``, its final order given as coarse ranks."""
    with transaction(served.sessions) as session:
        like, old = session.get_one(Search, searched.id), session.get_one(Job, searched.id)
        names = [column.key for column in sa.inspect(Search).column_attrs]
        values = {name: getattr(like, name) for name in names if name not in ("created_at", "coarse")}
        job = Job(
            id=new_id(),
            kind=old.kind,
            state="succeeded",
            user_id=old.user_id,
            collection_id=old.collection_id,
            params={"text": text},
        )
        session.add(job)
        session.flush()
        at = datetime.now(UTC) - timedelta(days=days)
        changed = {"id": job.id, "query_text": text, "question": question_of(text, None), "mode": mode, "final_at": at}
        session.add(Search(**{**values, **changed, "scorer": scorer or like.scorer}))
        session.flush()
        for rank, item in enumerate(searched.items, start=1):
            place = final.index(rank) + 1
            session.add(Candidate(token=new_id(), search_id=job.id, item_id=item, coarse_rank=rank, final_rank=place))
    return job.id


def mark(ada: Caller, search: object, item: object, relevant: bool = True) -> None:
    assert ada.put(f"/searches/{search}/judgments/{item}", json={"relevant": relevant}).status_code == 200


def first_words(page: Page) -> list[str]:
    """Return the first word of each entry of the page's list."""
    return [row.text.split()[0] for row in page.all("tr") if "data-row" in row.attributes]


@contextmanager
def recorded_statements(served: Services) -> Iterator[list[str]]:
    """Record the SQL statements."""
    statements: list[str] = []

    def note(connection, cursor, statement, *rest):
        statements.append(statement)

    engine = served.sessions.kw["bind"]
    sa.event.listen(engine, "before_cursor_execute", note)
    yield statements
    sa.event.remove(engine, "before_cursor_execute", note)


def test_without_reviews_the_page_explains_how_to_start(reader: Visitor, indexed: str) -> None:
    assert "No reviews yet" in reader.get("/quality").text
    assert "No reviewed searches yet" in reader.get(f"/quality/{indexed}").text


def test_a_reviewed_collection_shows_its_measures(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    hit = add_search(served, searched, "hit", [2, 1, 3])
    miss = add_search(served, searched, "fine miss", [3, 2, 1])
    for search in (hit, miss):
        mark(ada, search, searched.items[1])
    row = reader.get("/quality").all("tr")[1].text
    # Recall@1 0 by the coarse stage, half of the questions after the fine one; nDCG: 1 and 0.63 by the fine stage
    assert "Birds 2 50.0 % 50.0 % 0.0 %" in row
    assert "0.0 % → , fine 50.0 %" in row
    assert "63.1 % → , fine 81.5 %" in row
    page = reader.get(f"/quality/{indexed}")
    assert first_words(page) == ["fine", "hit"]
    assert "Charts need searches from at least two weeks" in page.text


def test_queries_are_filtered_by_verdict(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    for text, order in (("first", [2, 1, 3]), ("second", [1, 2, 3])):
        mark(ada, add_search(served, searched, text, order), searched.items[1])
    mark(ada, add_search(served, searched, "third", [1, 2, 3]), searched.items[1], relevant=False)

    def shown(verdict: str) -> list[str]:
        return first_words(reader.get(f"/quality/{indexed}?verdict={verdict}"))

    assert shown("hit") == ["first"]
    assert shown("fine+miss") == ["second"]
    assert shown("coarse+miss") == []
    assert shown("unknown") == ["third"]
    assert shown("nonsense") == ["third", "second", "first"]


def test_settings_are_compared_and_their_searches_linked(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    first = add_search(served, searched, "a bird", [1, 2, 3], mode="choice")
    second = add_search(served, searched, "a bird", [2, 1, 3], mode="true_false")
    mark(ada, first, searched.items[1])
    page = reader.get(f"/quality/{indexed}")
    table = next(one for one in page.all("table") if "first row" in one.text)
    assert "A or B" in table.text
    assert "true or false" in table.text
    assert "100.0 of 1" in table.text
    (link,) = [one for one in page.all("a") if one.text.startswith("compare the 2")]
    assert link.attributes["href"] == f"/compare?of={second}&of={first}"


def test_figures_of_two_scorers_are_told_apart(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    # one scorer is right, the other one wrong, and one query was asked of the first only
    shown = {}
    for text, scorer, order in [("a", "right", [2, 1, 3]), ("b", "right", [2, 1, 3]), ("a", "wrong", [1, 2, 3])]:
        shown[text, scorer] = add_search(served, searched, text, order, scorer=scorer)
        mark(ada, shown[text, scorer], searched.items[1])

    def tiles(page: Page) -> str:
        (figures,) = page.all("dl", class_="tiles")
        return figures.text

    assert "of 2 scorers" in reader.get("/quality").text
    newest, right = (reader.get(f"/quality/{indexed}{asked}") for asked in ("", "?scorer=right&verdict=hit"))
    assert "Hits 0.0 %" in tiles(newest)
    assert first_words(newest) == ["a"]
    assert "Hits 100.0 %" in tiles(right)
    assert first_words(right) == ["a", "b"]
    # what leads on keeps the scorer, and a comparison has both
    (link,) = [one for one in right.all("a") if one.text == "Show all"]
    assert link.attributes["href"] == f"/quality/{indexed}?scorer=right"
    (link,) = [one for one in right.all("a") if one.text.startswith("compare the 2")]
    assert link.attributes["href"] == f"/compare?of={shown['a', 'wrong']}&of={shown['a', 'right']}"
    (table,) = [one for one in right.all("table") if "first row" in one.text]
    assert all(scorer in table.text for scorer in ("right", "wrong"))


def test_searches_of_several_weeks_are_charted(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    for days, order in ((8, [1, 2, 3]), (0, [2, 1, 3])):
        mark(ada, add_search(served, searched, "a bird", order, days=days), searched.items[1])
    page = reader.get(f"/quality/{indexed}?by=week")
    figures = page.all("figure", class_="chart")
    assert len(figures) == 2
    assert "Recall@1 of the searches of each week" in figures[0].text
    assert "100.0 %" in figures[0].text
    assert "of each day" in reader.get(f"/quality/{indexed}?by=day").all("figure", class_="chart")[0].text
    assert reader.get(f"/quality/{indexed}?by=century").status == 200


def test_hidden_collections_are_not_shown(
    app: Flask, ada: Caller, bob: Caller, searched: Searched, indexed: str
) -> None:
    searched.finish([1, 2, 3])
    mark(ada, searched.id, searched.items[0])
    stranger = Visitor(app.test_client())
    stranger.log_in("bob")
    assert "Birds" not in stranger.get("/quality").text
    assert stranger.get(f"/quality/{indexed}").status == 404


def test_the_number_of_sql_queries_is_constant(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str
) -> None:
    paths = ("/quality", f"/quality/{indexed}")

    def queries() -> list[int]:
        numbers = []
        for path in paths:
            with recorded_statements(served) as statements:
                assert reader.get(path).status == 200
            numbers.append(len(statements))
        return numbers

    mark(ada, add_search(served, searched, "question 0", [1, 2, 3]), searched.items[1])
    few = queries()
    for number in range(1, 8):
        mark(ada, add_search(served, searched, f"question {number}", [2, 1, 3]), searched.items[1])
    with transaction(served.sessions) as session:
        session.add_all(Collection(id=new_id(), owner_id=ada.user.id, name=f"more {n}") for n in range(3))
    assert queries() == few
    assert max(few) <= 12


def test_reviewed_queries_are_paged(
    reader: Visitor, ada: Caller, searched: Searched, served: Services, indexed: str, monkeypatch
) -> None:
    from retllm_web.pages import quality

    monkeypatch.setattr(quality, "_SHOWN", 2)
    for number in range(5):
        mark(ada, add_search(served, searched, f"q{number}", [1, 2, 3]), searched.items[1])
    seen: list[str] = []
    path = f"/quality/{indexed}?verdict=fine+miss"
    while path:
        page = reader.get(path)
        seen += first_words(page)
        path = next((one.attributes["href"] or "" for one in page.all("a") if one.text == "More queries"), "")
        assert not path or "verdict=fine+miss" in path
    assert seen == ["q4", "q3", "q2", "q1", "q0"]
