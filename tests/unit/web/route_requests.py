"""A valid request for each route, so that only a missing right can make it fail."""

from __future__ import annotations

import io
import ipaddress
import json
import re
import secrets
import uuid
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from tests.unit.web.conftest import PASSWORD
from tests.unit.web.pictures import picture
from tests.unit.web.policy import Person
from tests.unit.web.scene import Scene, SceneBuilder, report
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from retllm.db.enums import TokenScope
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.identity import logins, tokens
from retllm.identity.actor import Actor
from retllm_web.http.auth import Account
from retllm_web.http.services import Services

RequestOptions = dict[str, Any]

_MEMBER_ROUTES = {"pages.remove_member", "api.remove_member"}
# static files of extensions
_EXTENSION_FILES = {"bootstrap.static": "css/bootstrap.min.css", "charts.static": "charts.css"}


TUS = {"Tus-Resumable": "1.0.0"}
"""The header of every request for a large file."""
IMPORTED = "s3://bucket/pictures/"
"""What a test has in RETLLM_IMPORT_ROOTS that sends a valid request for each route; only workers read it."""
WITH_HEADERS = {"api.get_large_file"}
"""Routes whose GET needs what ``BODIES`` has for them."""


def _json(**body: Any) -> RequestOptions:
    return {"json": body}


def _form(**fields: Any) -> RequestOptions:
    return {"data": fields, "content_type": "multipart/form-data"}


def _file(name: str, raw: bytes, file: str) -> RequestOptions:
    return _form(**{name: (io.BytesIO(raw), file)})


def _new_name() -> str:
    return f"n-{uuid.uuid4().hex}"


BODIES: dict[str, Callable[[Scene, SceneBuilder], RequestOptions]] = {
    "pages.login": lambda scene, *_: _form(name=scene.people[Person.READER].name, password=PASSWORD),
    "pages.change_password": lambda *_: _form(old=PASSWORD, new="another password", again="another password"),
    "pages.create_token": lambda *_: _form(name="a token", scope="read", days="7"),
    "pages.save_view": lambda *_: _form(name="a view", address="state=failed"),
    "pages.do_to_jobs": lambda scene, *_: _form(deed="retry", of=str(scene.keys["job_id"])),
    "pages.create_collection": lambda *_: _form(name=_new_name()),
    "pages.upload_run": lambda *_: _file("report", json.dumps(report()).encode(), "result.json"),
    "pages.create_person": lambda *_: _form(name=_new_name(), role="viewer", password="a long password"),
    "pages.change_role": lambda *_: _form(role="viewer"),
    "pages.give_password": lambda *_: _form(password="a long password"),
    "pages.change_collection": lambda *_: _form(name=_new_name(), description="d"),
    "pages.upload": lambda *_: _file("file", picture("blue"), "blue.png"),
    "pages.send_files": lambda *_: _file("file", picture("blue"), "blue.png"),
    "pages.add_text": lambda *_: _form(text="a robin", name="robin"),
    "pages.change_item": lambda *_: _form(title="A robin"),
    "pages.change_chosen": lambda scene, *_: _form(deed="rate", rating="3", item=str(scene.keys["item_id"])),
    "pages.download_chosen": lambda scene, *_: _form(item=str(scene.keys["item_id"])),
    "pages.keep_of_group": lambda scene, *_: _form(keep=str(scene.keys["item_id"])),
    "pages.delete_collection": lambda scene, *_: _form(confirm=scene.word),
    "pages.index_with": lambda _, builder: _form(embedder=builder.embedder),
    "pages.use_model": lambda _, builder: _form(embedder=builder.embedder),
    "pages.add_member": lambda scene, *_: _form(name=scene.people[Person.OUTSIDE_VIEWER].name, role="viewer"),
    "pages.change_visibility": lambda *_: _form(visibility="private"),
    "pages.change_positions": lambda *_: _form(positions="everyone"),
    "pages.search": lambda *_: _form(text="a robin"),
    "pages.search_anywhere": lambda scene, *_: _form(text="a robin", collection=str(scene.keys["collection_id"])),
    "pages.mark": lambda *_: _form(mark="relevant"),
    "api.create_token": lambda *_: _json(name="a token"),
    "api.requeue_units": lambda *_: _json(units=[str(uuid.uuid4())]),
    "api.create_collection": lambda *_: _json(name=_new_name()),
    "api.add_evaluation": lambda *_: _json(report=report()),
    "api.create_user": lambda *_: _json(name=_new_name(), password="a long password"),
    "api.change_user": lambda *_: _json(role="viewer"),
    "api.give_password": lambda *_: _json(password="a long password"),
    "api.pause_queue": lambda *_: _json(reason="r"),
    "api.change_collection": lambda *_: _json(name=_new_name()),
    "api.index_with_embedder": lambda _, builder: _json(embedder=builder.embedder),
    "pages.make_link": lambda *_: _form(purpose="the family", days="7"),
    "pages.make_result_link": lambda *_: _form(purpose="the family", days="7"),
    "api.make_link": lambda *_: _json(name="the family"),
    "api.make_result_link": lambda *_: _json(name="the family"),
    "api.add_member": lambda scene, *_: _json(name=scene.people[Person.OUTSIDE_VIEWER].name),
    "api.set_visibility": lambda *_: _json(visibility="private"),
    "api.upload_items": lambda *_: _json(items=[{"text": "a robin"}]),
    "api.change_item": lambda *_: _json(title="A robin"),
    "api.change_items": lambda scene, *_: _json(items=[str(scene.keys["item_id"])], change={"title": "A robin"}),
    "api.download_items": lambda scene, *_: _json(items=[str(scene.keys["item_id"])]),
    "pages.change_trash": lambda *_: _form(deed="restore", item=str(uuid.uuid4())),
    "api.restore_items": lambda *_: _json(items=[str(uuid.uuid4())]),
    "api.remove_items": lambda *_: _json(items=[str(uuid.uuid4())]),
    "api.delete_items": lambda *_: _json(items=[str(uuid.uuid4())]),
    "api.move_items": lambda scene, *_: _json(items=[str(uuid.uuid4())], to=str(scene.keys["collection_id"])),
    "api.copy_items": lambda scene, *_: _json(items=[str(uuid.uuid4())], to=str(scene.keys["collection_id"])),
    "api.open_upload": lambda *_: _json(index=True),
    "api.import_files": lambda *_: _json(address=IMPORTED),
    "pages.import_files": lambda *_: _form(address=IMPORTED),
    "api.expect_files": lambda *_: _json(first=0, names=["a.png"]),
    "api.note_unsent_files": lambda *_: _json(files=[{"name": "a.png", "status": "rejected", "reason": "gone"}]),
    "api.announce_files": lambda *_: _json(files=[{"name": "a.png", "size": 1, "sha256": "0" * 64}]),
    "api.send_files": lambda *_: _file("file", picture("blue"), "blue.png"),
    "api.create_large_file": lambda *_: {"headers": {**TUS, "Upload-Length": "9"}},
    "api.append_part": lambda *_: {
        "headers": {**TUS, "Upload-Offset": "0"},
        "data": b"a part",
        "content_type": "application/offset+octet-stream",
    },
    "api.get_large_file": lambda *_: {"headers": TUS},
    "api.abandon_large_file": lambda *_: {"headers": TUS},
    "api.submit_search": lambda *_: _json(text="a robin"),
    "api.submit_search_of_several": lambda scene, *_: _json(
        text="a robin", collections=[str(scene.keys["collection_id"])]
    ),
    "api.set_judgment": lambda *_: _json(relevant=True),
    "api.ask_reviewed_questions": lambda *_: _json(),
}
"""The body of each route that needs one."""

WRONG_JSON: list[RequestOptions] = [
    {"json": {"no such field": 1}},
    {"json": []},
    {"data": b"{", "content_type": "application/json"},
    {"data": b"x", "content_type": "text/plain"},
    {"json": {"name": "\0", "text": "\0"}},
    {"data": {"no such part": "1"}, "content_type": "multipart/form-data"},
]
WRONG_FORMS: list[RequestOptions] = [_form(), _form(name="\0", text="\0", mark="\0", embedder="\0"), {"json": {}}]
WRONG_QUERIES = ["?limit=0", "?after=nothing", "?no_such_parameter=1", "?q=%00"]


class RequestSender:
    """Sends requests as any account of a scene, which has one token of each scope and one login."""

    def __init__(self, app: Flask, served: Services) -> None:
        self._app, self._served = app, served
        self._tokens: dict[tuple[uuid.UUID, TokenScope], str] = {}
        self._logins: dict[uuid.UUID, uuid.UUID] = {}

    def address(self, rule: Rule, method: str, scene: Scene) -> str:
        """Return the route's address for the objects of ``scene``."""
        token = scene.result_link if rule.endpoint == "shared.query" else scene.link
        values: dict[str, Any] = {"queue": "embed", "filename": "site.css", "token": token, **scene.keys}
        if rule.endpoint in _MEMBER_ROUTES:
            values["user_id"] = scene.keys["member_id"]
        if rule.endpoint in _EXTENSION_FILES:
            values["filename"] = _EXTENSION_FILES[rule.endpoint]
        needed = {name: values[name] for name in rule.arguments}
        return self._app.url_map.bind("localhost").build(rule.endpoint, needed, method=method)

    def send(
        self,
        method: str,
        address: str,
        user: User | None,
        sent: RequestOptions | None = None,
        *,
        fragment: bool = False,
        scope: TokenScope = TokenScope.MANAGE,
        link: str | None = None,
    ) -> TestResponse:
        """Return the response; ``fragment`` requests as a script, and the API gets a token of this scope.

        Without a ``user``, a ``link`` is sent wherever a request may carry a secret.
        """
        client = self._app.test_client()
        options = dict(sent or {})
        headers = {**options.pop("headers", {}), **({"X-Requested-With": "fetch"} if fragment else {})}
        if link is not None:
            headers |= {"Authorization": f"Bearer {link}", "X-CSRFToken": link, "Referer": f"http://localhost/s/{link}"}
            client.set_cookie(str(self._app.config["SESSION_COOKIE_NAME"]), link)
            address += ("&" if "?" in address else "?") + f"token={link}&link={link}&access_token={link}"
        if user is not None and address.startswith("/api/"):
            headers["Authorization"] = f"Bearer {self._token(user, scope)}"
        elif user is not None:
            self._log_in(client, user)
        # failed logins are limited per address
        somewhere = str(ipaddress.IPv4Address(0x0A000000 + secrets.randbelow(1 << 24)))
        # reads and closes the answer, as a server does
        options["buffered"] = True
        return client.open(
            address, method=method, headers=headers, environ_overrides={"REMOTE_ADDR": somewhere}, **options
        )

    def _token(self, user: User, scope: TokenScope) -> str:
        if (user.id, scope) not in self._tokens:
            key = tokens.token_key(self._served.settings)
            with transaction(self._served.sessions) as session:
                _, token = tokens.issue(session, key, Actor.unlimited(user), "walk", scope=scope)
            self._tokens[user.id, scope] = token
        return self._tokens[user.id, scope]

    def _log_in(self, client: FlaskClient, user: User) -> None:
        """Log the client in without the slow password check."""
        if user.id not in self._logins:
            with transaction(self._served.sessions) as session:
                self._logins[user.id] = logins.begin(session, user, address=None, agent=None).id
        with client.session_transaction() as kept:
            kept["_user_id"] = Account(user, self._logins[user.id]).get_id()


def plain_body(answer: TestResponse) -> str:
    """Return the body without what differs between requests: keys and tokens."""
    text = answer.get_data(as_text=True)
    text = re.sub(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", "key", text)
    return re.sub(r'name="csrf[-_]token" (value|content)="[^"]*"', "", text)
