"""Collections and their embedders on the command line, through a server on a real database."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from tests.factories import make_embedding, make_model, make_text
from tests.unit.web.conftest import RecordingNotifier
from werkzeug.serving import make_server

from retllm.cli.client import RequestRejected
from retllm.cli.collections import collections
from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.identity import accounts, tokens
from retllm.identity.actor import Actor
from retllm.queue.worker import WorkerContext
from retllm.settings import Settings, public_name
from retllm_web.app import create_app
from retllm_web.http.services import Services

OTHER = "ViT-B-32/some"


@pytest.fixture
def served(fresh_database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """A server with two embedders, used by the command line as an administrator."""
    settings = Settings(
        home=tmp_path / "home", database_url=fresh_database, redis_url=redis_url, extra_embedders=(OTHER,)
    )
    notifier = RecordingNotifier()
    app = create_app(settings, notifier=notifier)
    found: Services = app.extensions["retllm"]
    notifier.context = WorkerContext(found.sessions, found.storage, settings, notifier, "worker")
    with transaction(found.sessions) as session:
        root = accounts.create_user(session, "root", "a long password", Role.ADMIN)
        _, secret = tokens.issue(session, tokens.token_key(settings), Actor.unlimited(root), "cli")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("RETLLM_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("RETLLM_TOKEN", secret)
    yield found
    server.shutdown()
    thread.join()


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(collections, list(arguments), catch_exceptions=False)


def _json(*arguments: str) -> dict[str, object]:
    # the server logs to the same output
    (line,) = [line for line in _run(*arguments, "--json").output.splitlines() if line.startswith("{")]
    answer: dict[str, object] = json.loads(line)
    return answer


def _text_with_vector(served: Services, key: str, embedder: str) -> uuid.UUID:
    """Add a text with an embedding by this embedder; return the id of the model."""
    with transaction(served.sessions) as session:
        item = session.scalar(sa.select(Item))
        if item is None:
            item = make_text(uuid.UUID(key), "a")
            session.add(item)
        model = make_model(embedder)
        session.add(model)
        session.flush()
        session.add(make_embedding(item, model.id, image_weight=served.settings.item_image_weight))
    return model.id


def test_a_collection_is_created_changed_listed_and_deleted(served: Services) -> None:
    assert "Created Birds" in _run("create", "Birds").output
    assert "Changed Owls" in _run("change", "Birds", "--name", "Owls", "--description", "at night").output
    output = _run().output
    assert "Owls" in output
    assert "private" in output
    assert _run("change", "Owls").exit_code == 2
    assert _run("delete", "Owls", "--yes").exit_code == 0
    assert _json() == {"collections": []}


def test_the_language_of_a_collection_is_set_and_changed(served: Services) -> None:
    assert _json("create", "Vögel", "--language", "german")["language"] == "german"
    assert _json("change", "Vögel", "--language", "simple")["language"] == "simple"
    with pytest.raises(RequestRejected, match="Choose one of: arabic"):
        _run("change", "Vögel", "--language", "klingon")


def test_the_embedder_of_a_collection_can_be_replaced(served: Services) -> None:
    key = str(_json("create", "Birds")["id"])
    main = public_name(served.settings.embedder_name)
    old = _text_with_vector(served, key, main)
    _text_with_vector(served, key, OTHER)
    shown = _run("models", "Birds").output
    for expected in (f"{main} in use", f"{OTHER} in force"):
        assert expected in " ".join(shown.split())
    assert f"use {OTHER}" in _run("use", "Birds", OTHER).output
    assert "'x' is not a valid UUID" in _run("remove-vectors", "Birds", "x", "--yes").output
    assert "Deleted 1 embeddings" in _run("remove-vectors", "Birds", str(old), "--yes").output
    rows = _json("models", "Birds")["embedders"]
    assert isinstance(rows, list)
    assert [(row["name"], row["in_use"], row["vectors"]) for row in rows] == [(OTHER, True, 1), (main, False, 0)]
    assert _json("index", "Birds", "--with", OTHER)["state"] == "succeeded", "no embedding was missing"
