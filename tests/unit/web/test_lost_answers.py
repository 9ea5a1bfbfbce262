"""The response to a commit may be lost although the commit succeeded, so nothing may be deleted."""

from __future__ import annotations

import io
import json
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from PIL import Image
from sqlalchemy import event
from tests.unit.web.conftest import PASSWORD
from tests.unit.web.policy import Person
from tests.unit.web.route_requests import RequestSender
from tests.unit.web.scene import SceneBuilder

from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.reviews import EvaluationRun
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Embedding, Item, new_id
from retllm.db.vectors import register_model
from retllm.queue.audit import violations
from retllm.settings import public_name


def _picture(colour: str) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def _lose_commit_response(served: Any, of: type) -> None:
    """Let the next commit with a row of this kind succeed, but report a broken connection to the caller."""

    def note(session: Any, _: object) -> None:
        if any(isinstance(row, of) for row in session.new):
            session.info["lose"] = True

    def lose(session: Any) -> None:
        if session.info.pop("lose", None):
            event.remove(served.sessions, "after_commit", lose)
            event.remove(served.sessions, "after_flush", note)
            raise sa.exc.OperationalError("COMMIT", {}, ConnectionResetError("the server closed the connection"))

    event.listen(served.sessions, "after_flush", note)
    event.listen(served.sessions, "after_commit", lose)


@pytest.fixture
def collection(ada: Any, served: Any) -> str:
    """An indexed collection of one picture."""
    key = str(ada.post("/collections", json={"name": "things"}).json["id"])
    files = {"file": (_picture("red"), "red.png")}
    assert ada.post(f"/collections/{key}/items?index=false", data=files).json["added"] == 1
    settings = served.settings
    with transaction(served.sessions) as session:
        model = register_model(
            session,
            name=public_name(settings.embedder_name),
            revision="1",
            dimension=3,
            preprocessing_hash="1",
        )
        item = session.scalars(sa.select(Item.id)).one()
        session.add(
            Embedding(
                token=new_id(),
                item_id=item,
                model_id=model.id,
                collection_id=UUID(key),
                item_version=1,
                image_weight=settings.item_image_weight,
                vector=[1.0, 0.0, 0.0],
            )
        )
    return key


def test_a_search_keeps_its_picture_if_the_response_to_its_commit_is_lost(
    ada: Any, served: Any, collection: str
) -> None:
    def ask() -> Any:
        return ada.post(
            f"/collections/{collection}/searches",
            data={"query": json.dumps({"k": 1}), "picture": (_picture("blue"), "blue.png")},
            headers={"Idempotency-Key": "k"},
        )

    _lose_commit_response(served, Search)
    assert ask().status_code >= 500
    again = ask()
    assert again.status_code == 202
    with served.sessions() as session:
        searches = sa.select(Job.id, Job.idempotency_key).where(Job.kind == JobKind.SEARCH)
        assert session.execute(searches).all() == [(UUID(again.json["id"]), "k")]
    assert [str(one) for one in violations(served.sessions, served.storage)] == []


def test_a_rerun_keeps_its_pictures_if_the_response_to_its_commit_is_lost(app: OpenAPI, served: Any) -> None:
    scene = SceneBuilder(served, PASSWORD).build()
    sender, owner = RequestSender(app, served), scene.people[Person.OWNER]
    address = f"/api/v1/collections/{scene.keys['collection_id']}/evaluations"
    _lose_commit_response(served, EvaluationRun)
    assert sender.send("POST", address, owner, {"json": {}}).status_code >= 500
    with served.sessions() as session:
        rerun = sa.select(Search.query_picture_key).where(Search.id != scene.keys["search_id"])
        pictures = [picture for picture in session.scalars(rerun) if picture is not None]
    assert pictures
    assert all(served.storage.exists(picture) for picture in pictures)
