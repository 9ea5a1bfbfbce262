"""A browser without scripts: follows links, fills in forms, reads pages."""

from __future__ import annotations

import ipaddress
import secrets
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.factories import make_candidate, make_job, make_score, make_search, make_unit, store
from tests.unit.web.conftest import PASSWORD, Caller, start_session
from tests.unit.web.pages.upload_script import Outcomes, Script
from tests.unit.web.vectors import embed_items

from retllm.db.enums import DecidedBy, JobState, UnitState
from retllm.db.jobs import Job, Unit
from retllm.db.searches import Candidate, Search
from retllm.db.session import transaction
from retllm.db.tables import EmbeddingModel, Item
from retllm.db.uploads import UploadFile
from retllm.fine.injection import Injection
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services

# elements without an end
_VOID = {"meta", "link", "input", "img", "br", "hr"}


@dataclass
class Element:
    """A start tag with the text that is inside it."""

    tag: str
    attributes: dict[str, str | None]
    inside: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.inside).split())


class _Parser(HTMLParser):
    """Lists the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.inside.append(data)


class Page:
    """A response as a page, which is parsed when a test looks at its elements."""

    def __init__(self, answer: Any) -> None:
        self.status: int = answer.status_code
        self.headers = answer.headers
        self.html: str = answer.get_data(as_text=True)
        self.path: str = answer.request.path

    @cached_property
    def elements(self) -> list[Element]:
        """All elements in the order of their start tags."""
        parser = _Parser()
        parser.feed(self.html)
        return parser.elements

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return elements of that tag with these attributes; ``data_x`` means ``data-x``, ``class_`` one class."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}

        def fits(element: Element) -> bool:
            has = element.attributes
            return element.tag == tag and all(
                value in (has.get(name) or "").split() if name == "class" else has.get(name) == value
                for name, value in wanted.items()
            )

        return [element for element in self.elements if fits(element)]

    def one(self, tag: str, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return self.one("body").text if self.all("body") else " ".join(self.html.split())


class Visitor:
    """A browser without scripts and its session."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        # its own address, since failed logins are limited per address
        client.environ_base["REMOTE_ADDR"] = str(ipaddress.IPv4Address(0x0A000000 + secrets.randbelow(1 << 24)))
        self.page: Page | None = None

    def get(self, path: str, **kwargs: Any) -> Page:
        self.page = Page(self.client.get(path, follow_redirects=True, **kwargs))
        return self.page

    def token(self) -> str:
        """Return the CSRF token of the open page."""
        assert self.page is not None
        return next(e.attributes["value"] or "" for e in self.page.all("input", name="csrf_token"))

    def send(self, path: str, follow: bool = True, **fields: Any) -> Page:
        """Send a form of the open page, which must have one with this action."""
        assert self.page is not None
        actions = {form.attributes.get("action", self.page.path) for form in self.page.all("form", method="post")}
        assert path in actions, f"no form for {path} on this page, only {actions}"
        data = {"csrf_token": self.token(), **fields}
        answer = self.client.post(path, data=data, content_type="multipart/form-data", follow_redirects=follow)
        self.page = Page(answer)
        return self.page

    def log_in(self, name: str, password: str = PASSWORD) -> Page:
        self.get("/login")
        return self.send("/login", name=name, password=password)


def hidden_fields(page: Page, action: str) -> dict[str, Any]:
    """Return what the form with this action would send, without its token."""
    assert [form for form in page.all("form") if form.attributes.get("action") == action]
    hidden = [e.attributes for e in page.all("input", type="hidden")]
    found: dict[str, Any] = {}
    for one in hidden:
        name, value = str(one["name"]), str(one.get("value") or "")
        if name != "csrf_token":
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def visitor(app: OpenAPI) -> Visitor:
    """A browser that is not logged in."""
    return Visitor(app.test_client())


@pytest.fixture
def reader(app: OpenAPI, ada: Caller) -> Visitor:
    """Ada in her browser."""
    visitor = Visitor(app.test_client())
    start_session(app, visitor.client, ada.user)
    return visitor


@pytest.fixture
def texts(ada: Caller) -> str:
    """A collection of ada's with three texts, not indexed."""
    key = str(ada.post("/collections", json={"name": "Birds"}).json["id"])
    items = {"items": [{"text": "a robin", "name": "robin"}, {"text": "a wren", "name": "wren"}, {"text": "a crow"}]}
    assert ada.post(f"/collections/{key}/items?index=false", json=items).json["added"] == 3
    return key


@pytest.fixture
def script(reader: Visitor, texts: str) -> Script:
    """The script on the page of a collection."""
    return Script(reader, texts)


@pytest.fixture
def outcomes(served: Services) -> Outcomes:
    """Returns name and status of each file of an upload."""

    def read(upload: str) -> list[tuple[str, str]]:
        query = sa.select(UploadFile.name, UploadFile.status).where(UploadFile.job_id == uuid.UUID(upload))
        with transaction(served.sessions) as session:
            return [(name, status.value) for name, status in session.execute(query.order_by(UploadFile.id))]

    return read


@pytest.fixture
def indexed(texts: str, served: Services, settings: Settings) -> str:
    """The same collection with a vector for each text."""
    embed_items(served, settings, texts, public_name(settings.embedder_name), revision="rev-of-embedder")
    return texts


@dataclass
class Searched:
    """A search in the database, with methods that act like its workers."""

    served: Services
    id: UUID
    items: list[UUID]

    def score(self, place: int, score: float | None, entropy: float | None = 0.1, *, error: str | None = None) -> None:
        """Give the candidate at a coarse rank (from 1) a score, or the reason why it has none."""
        with transaction(self.served.sessions) as session:
            session.add(
                make_score(
                    self.id,
                    self.items[place - 1],
                    score,
                    scorer_version="v",
                    entropy=entropy,
                    error=error,
                    injected_layer=2,
                    uncertainty=0.8,
                )
            )

    def finish(self, order: list[int], state: JobState = JobState.SUCCEEDED) -> None:
        """Write the final order, given as coarse ranks."""
        with transaction(self.served.sessions) as session:
            for rank, place in enumerate(order, start=1):
                candidate = session.get_one(Candidate, (self.id, self.items[place - 1]))
                candidate.final_rank, candidate.decided_by = rank, DecidedBy.SCORE
            session.execute(
                sa.update(Unit).where(Unit.job_id == self.id).values(state=UnitState.DONE, finished_at=sa.func.now())
            )
            session.execute(sa.update(Search).where(Search.id == self.id).values(final_at=sa.func.now()))
            job = session.get_one(Job, self.id)
            job.state, job.finished_at = state, sa.func.now()


@pytest.fixture
def searched(indexed: str, served: Services, settings: Settings, ada: Caller) -> Searched:
    """A search after its coarse stage: three candidates, none scored."""
    key = uuid.UUID(indexed)
    with transaction(served.sessions) as session:
        items = list(session.scalars(sa.select(Item.id).where(Item.collection_id == key).order_by(Item.id)))
        model_id = session.scalars(sa.select(EmbeddingModel.id)).one()
        job = make_job(ada.user.id, key, state=JobState.RUNNING, params={"text": "<b>a small bird</b>"})
        search = make_search(
            job.id,
            "<b>a small bird</b>",
            k=3,
            embedder=public_name(settings.embedder_name),
            model_id=model_id,
            scorer="some scorer",
            scorer_revision="rev-of-scorer",
            scorer_version="v",
            prompt_version="7",
            injection=Injection(alpha=0.25, trigger="fixed", fixed_layer=3).as_json(),
            tie_decimals=3,
            searched_items=3,
            coarse_at=sa.func.now(),
        )
        pool = [
            make_candidate(job.id, item, rank, similarity=1 - rank / 10) for rank, item in enumerate(items, start=1)
        ]
        unit = make_unit(job.id, payload={"items": [str(item) for item in items]}, state=UnitState.LEASED)
        store(session, job, search, *pool, unit)
    return Searched(served, job.id, items)
