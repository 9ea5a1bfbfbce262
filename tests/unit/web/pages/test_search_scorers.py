"""The search form offers several scorers, and asks each for what it can do, with and without JavaScript."""

from __future__ import annotations

import pytest
from tests.unit.web.commands import Run
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.search_requests import ask_on_page, filled_form, newest_search, search_on_collection

from retllm.cli import search
from retllm.cli.client import RequestRejected
from retllm.db.enums import Stage
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.errors import ServerAway
from retllm.operations import workers
from retllm.operations.workers import WorkerReport
from retllm.queue import lifecycle
from retllm.queue.claim import claim_unit, wait_for_server
from retllm.settings import Settings
from retllm_web.http.services import Services

JUDGE, RANKER, OTHER = "openai:org/judge", "rerank:org/ranker", "other"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The main scorer is a model in a worker, asked in the mode choice."""
    extras = ["/models/other", "openai+http://gpu:1/v1#org/judge", "rerank+http://gpu:2#org/ranker"]
    given = settings.model_dump(exclude_unset=True)
    return Settings.model_validate(given | {"mode": "choice", "extra_scorers": extras})


def test_the_form_offers_every_scorer_and_the_main_one_is_the_default(
    reader: Visitor, indexed: str, settings: Settings
) -> None:
    for address in (f"/search?collection={indexed}", f"/collections/{indexed}"):
        page = reader.get(address)
        offered = [e.attributes["value"] for e in page.all("option") if "data-defaults" in e.attributes]
        assert offered == settings.scorer_names
        assert filled_form(page)["scorer"] == settings.scorer_names[0]


def test_one_scorer_is_not_offered(reader: Visitor, indexed: str, settings: Settings) -> None:
    settings.extra_scorers = ()
    assert reader.get(f"/search?collection={indexed}").all("select", id="scorer") == []


def test_a_search_names_its_scorer_in_either_form(reader: Visitor, indexed: str, served: Services) -> None:
    ask_on_page(reader, indexed, text="a bird", scorer=OTHER)
    assert (newest_search(served).scorer, newest_search(served).injection["trigger"]) == (OTHER, "entropy")
    search_on_collection(reader, indexed, text="a bird", scorer=JUDGE)
    assert (newest_search(served).scorer, newest_search(served).injection["trigger"]) == (JUDGE, "off")
    search_on_collection(reader, indexed, text="a bird")
    assert newest_search(served).scorer == served.settings.scorer_names[0]


@pytest.mark.parametrize(("scorer", "mode"), [(JUDGE, "choice"), (RANKER, "true_false")])
def test_what_a_scorer_cannot_do_is_no_obstacle_if_nobody_asked_for_it(
    reader: Visitor, indexed: str, served: Services, scorer: str, mode: str
) -> None:
    """The form shows the defaults of the main scorer: re-injection when uncertain, and the mode choice."""
    ask_on_page(reader, indexed, text="a bird", scorer=scorer)
    found = newest_search(served)
    assert (found.scorer, found.mode, found.injection["trigger"]) == (scorer, mode, "off")


@pytest.mark.parametrize(
    ("scorer", "fields", "problem"),
    [
        (JUDGE, {"trigger": "fixed", "fixed_layer": "1"}, "trigger-problem"),
        (JUDGE, {"alpha": "0.2"}, "alpha-problem"),
        (RANKER, {"tau": "0.5"}, "tau-problem"),
        (RANKER, {"start": "2"}, "start-problem"),
        (RANKER, {"fixed_layer": "3"}, "fixed_layer-problem"),
        (JUDGE, {"scope": "all"}, "scope-problem"),
        (JUDGE, {"trace": "1"}, "runs on a server, which does not tell what its layers do"),
        (RANKER, {"mode": "verbalized"}, "mode-problem"),
        # a script has shown the defaults of the chosen scorer, so this is a choice
        (JUDGE, {"trigger": "entropy", "shown": JUDGE}, "trigger-problem"),
        ("third", {}, "scorer-problem"),
    ],
)
def test_what_was_asked_for_is_refused_beside_its_field(
    reader: Visitor, indexed: str, scorer: str, fields: dict[str, str], problem: str
) -> None:
    page = ask_on_page(reader, indexed, text="a bird", scorer=scorer, **fields)
    assert page.status == 422
    assert problem in page.html
    if scorer != "third":
        assert filled_form(page)["scorer"] == scorer


def test_the_form_with_another_scorer_shows_its_defaults(reader: Visitor, indexed: str) -> None:
    page = reader.get(f"/search?collection={indexed}&scorer={RANKER}")
    filled = filled_form(page)
    assert (filled["scorer"], filled["shown"], filled["mode"], filled["trigger"]) == (
        RANKER,
        RANKER,
        "true_false",
        "off",
    )
    assert "changed" not in page.all("summary")[0].text
    unknown = filled_form(reader.get(f"/search?collection={indexed}&scorer=third"))
    assert unknown["scorer"] == unknown["shown"] != "third"


def test_searching_again_takes_the_same_scorer_if_it_is_still_configured(
    reader: Visitor, indexed: str, served: Services, settings: Settings
) -> None:
    ask_on_page(reader, indexed, text="a bird", scorer=JUDGE)
    key = newest_search(served).id
    assert filled_form(reader.get(f"/search?again={key}"))["scorer"] == JUDGE
    settings.extra_scorers = settings.extra_scorers[:1]
    page = reader.get(f"/search?again={key}")
    main = settings.scorer_names[0]
    assert filled_form(page)["scorer"] == main
    assert f"The earlier search used the scorer {JUDGE}; this one will use {main}." in page.text


def test_the_api_refuses_a_scorer_that_is_not_configured_and_names_the_others(ada: Caller, indexed: str) -> None:
    where = f"/collections/{indexed}/searches"
    answer = ada.post(where, json={"text": "a bird", "scorer": "third"})
    assert (answer.status_code, answer.json["error"]["detail"]["field"]) == (422, "scorer")
    assert f"other, {JUDGE}, {RANKER}" in answer.json["error"]["message"]
    key = ada.post(where, json={"text": "a bird", "scorer": JUDGE}).json["id"]
    assert ada.get(f"/searches/{key}").json["scorer"] == JUDGE


def test_the_command_line_names_a_scorer(run: Run, indexed: str, served: Services) -> None:
    assert run(search.search, indexed, "a bird", "--scorer", JUDGE).exit_code == 0
    assert newest_search(served).scorer == JUDGE
    with pytest.raises(RequestRejected, match="The scorer third is not configured"):
        run(search.search, indexed, "a bird", "--scorer", "third")


def test_a_key_of_a_request_belongs_to_its_scorer(ada: Caller, indexed: str) -> None:
    where, key = f"/collections/{indexed}/searches", {"Idempotency-Key": "once"}
    first = ada.post(where, json={"text": "a bird", "scorer": JUDGE}, headers=key)
    assert ada.post(where, json={"text": "a bird", "scorer": JUDGE}, headers=key).json["id"] == first.json["id"]
    assert ada.post(where, json={"text": "a bird", "scorer": OTHER}, headers=key).status_code == 409


def test_the_pages_of_queues_say_which_server_units_wait_for(
    reader: Visitor, ada: Caller, indexed: str, served: Services
) -> None:
    away = "The server of the scorer openai:org/judge is away: it can't be reached."
    key = ada.post(f"/collections/{indexed}/searches", json={"text": "a bird", "scorer": JUDGE}).json["id"]
    with transaction(served.sessions) as session:
        workers.record(session, WorkerReport("w", [f"score:{JUDGE}", "score"], "cpu", "0", []))
        (made,) = lifecycle.add_units(session, session.get_one(Job, key), Stage.FINE, [{"items": []}])
    settings = served.settings.serving(JUDGE)
    claim = claim_unit(served.sessions, made.unit_id, "w", settings)
    assert claim is not None
    wait_for_server(served.sessions, claim, ServerAway(away, 60), settings)
    for address in ("/system", "/"):
        states = {row.text.split()[0]: row.text for row in reader.get(address).all("tr")}
        assert away in states[f"score:{JUDGE}"]
        assert "served" not in states[f"score:{JUDGE}"]
        assert "served" in states["score"]
    told = {queue["name"]: queue["awaited"] for queue in ada.get("/system/queues").json["queues"]}
    assert (told[f"score:{JUDGE}"], told["score"]) == (away, None)


def test_a_paused_scorer_is_named_on_the_pages_of_its_searches_only(
    reader: Visitor, ada: Caller, root: Caller, indexed: str, served: Services
) -> None:
    where = f"/collections/{indexed}/searches"
    keys = [ada.post(where, json={"text": "a bird", "scorer": scorer}).json["id"] for scorer in (JUDGE, OTHER)]
    with transaction(served.sessions) as session:
        for key in keys:
            lifecycle.add_units(session, session.get_one(Job, key), Stage.FINE, [{"items": []}])
    assert root.post(f"/system/queues/score:{JUDGE}/pause", json={"reason": "a new GPU"}).status_code == 200
    assert ["a new GPU" in reader.get(f"/jobs/{key}").text for key in keys] == [True, False]
    assert ada.get(f"/system/dead-units?queue=score:{JUDGE}").json == {"units": [], "next": None}
