"""The page of a collection's embedders: index with another one, switch, remove old vectors."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Visitor

from retllm.db.enums import MemberRole
from retllm.db.people import CollectionMember
from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, new_id
from retllm.settings import Settings, public_name
from retllm_web.http.services import Services

OTHER = "ViT-B-32/some"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with two embedders."""
    return settings.model_copy(update={"extra_embedders": (OTHER,)})


def _embed_all(served: Services, key: str) -> uuid.UUID:
    """Embed every item with the other embedder too."""
    with transaction(served.sessions) as session:
        model = EmbeddingModel(id=new_id(), name=OTHER, revision="other-revision", dimension=2, preprocessing_hash="h")
        session.add(model)
        session.flush()
        for one in session.scalars(sa.select(Embedding).where(Embedding.collection_id == uuid.UUID(key))).all():
            copied = {name: getattr(one, name) for name in ("item_id", "collection_id", "item_version", "image_weight")}
            session.add(Embedding(token=new_id(), model_id=model.id, vector=[1.0, 0.0], **copied))
    return model.id


def test_another_embedder_is_indexed_and_put_into_use_and_the_old_vectors_are_removed(
    reader: Visitor, indexed: str, served: Services, settings: Settings, notified: RecordingNotifier
) -> None:
    here = f"/collections/{indexed}/models"
    assert reader.get(f"/collections/{indexed}").all("a", href=here)
    page = reader.get(here)
    main = public_name(settings.embedder_name)
    assert [e.text for e in page.all("h2", class_="any")] == [f"{main} in use", f"{OTHER} available"]
    assert "0 of 3 items embedded" in page.text
    assert "the remaining 3 items are embedded" in page.text
    assert not page.all("form", action=f"{here}/use")
    job = reader.send(f"{here}/index", embedder=OTHER)
    assert job.path.startswith("/jobs/")
    assert len(notified.units) == 1

    _embed_all(served, indexed)
    reader.get(here)
    page = reader.send(f"{here}/use", embedder=OTHER)
    assert f"use {OTHER}. Earlier searches keep" in page.one("div", role="status").text
    assert [e.text for e in page.all("h2", class_="any")] == [f"{OTHER} in use", f"{main} available"]
    with transaction(served.sessions) as session:
        old = session.scalars(sa.select(EmbeddingModel.id).where(EmbeddingModel.name == main)).one()
    page = reader.send(f"{here}/{old}/remove")
    assert "3 vectors removed" in page.text
    assert "Indexing : 3 of 3" in reader.get(f"/collections/{indexed}").text


def test_incomplete_unknown_and_used_embedders_are_rejected_with_a_reason(
    reader: Visitor, indexed: str, served: Services
) -> None:
    here = f"/collections/{indexed}/models"
    reader.get(here)
    token = reader.token()

    def refused(path: str, **fields: str) -> str:
        data = {"csrf_token": token, **fields}
        reader.client.post(f"{here}/{path}", data=data)
        return reader.get(here).one("div", role="alert").text

    assert "3 of 3 items have no vector" in refused("use", embedder=OTHER)
    assert "not a configured embedder" in refused("use", embedder="nonsense")
    assert "not a configured embedder" in refused("index", embedder="")
    with transaction(served.sessions) as session:
        used = session.scalars(sa.select(EmbeddingModel.id)).one()
    assert "change its embedder first" in refused(f"{used}/remove")


def test_only_managers_see_the_embedders_of_a_collection(
    app: Flask, indexed: str, bob: Caller, served: Services
) -> None:
    other = Visitor(app.test_client())
    other.log_in("bob")
    here = f"/collections/{indexed}/models"
    assert other.get(here).status == 404
    with transaction(served.sessions) as session:
        session.add(CollectionMember(collection_id=uuid.UUID(indexed), user_id=bob.user.id, role=MemberRole.EDITOR))
    assert other.get(here).status == 403
    assert not other.get(f"/collections/{indexed}").all("a", href=here)


def test_an_embedder_that_is_no_longer_configured_is_named(reader: Visitor, indexed: str, served: Services) -> None:
    with transaction(served.sessions) as session:
        session.execute(sa.text("UPDATE collections SET embedder = 'ViT-L-14/gone'"))
    page = reader.get(f"/collections/{indexed}/models")
    assert "ViT-L-14/gone , which is no longer configured" in page.one("div", class_="alert-warning").text
