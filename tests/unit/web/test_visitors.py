"""What visitors of a link see without an account, and what they don't."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Searched, indexed, searched, texts
from tests.unit.web.pictures import picture, place_in
from tests.unit.web.sharing import Shared, made, path_of, paths_behind, shared
from tests.unit.web.test_item_changes import added

from retllm.db.people import ShareLink
from retllm.db.session import transaction
from retllm.identity import links
from retllm_web.http.decoding import DecodingLine
from retllm_web.http.login_throttle import MAX_WRONG
from retllm_web.http.services import Services

__all__ = ["indexed", "searched", "shared", "texts"]


def test_a_link_opens_a_collection_without_an_account(client: FlaskClient, ada: Caller, shared: Shared) -> None:
    page = client.get(shared.path)
    assert page.status_code == 200
    for shown in ("Birds", "robin.jpg", "a robin in snow", "wren.png", "a crow on a roof"):
        assert shown in page.text
    item = client.get(f"{shared.path}/items/{shared.items[0]}")
    assert item.status_code == 200
    assert "a robin in snow" in item.text
    for kind in ("thumbnail", "rendition"):
        shown = client.get(f"{shared.path}/items/{shared.items[0]}/{kind}")
        assert shown.mimetype == "image/webp"
        assert not place_in(shown.data)
    # the addresses on both pages lead to nothing else
    for one in (page, item):
        assert "ada" not in re.findall(r"\w+", one.text)
        found = set(re.findall(r'(?:href|src|action)="([^"]*)"', one.text))
        assert found
        assert not [to for to in found if not to.startswith((shared.path, "/static/", "/bootstrap/", "#"))], found


def test_items_come_in_pages_and_lead_to_each_other(
    client: FlaskClient, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retllm_web.pages.collections._ITEMS", 2)
    first = client.get(shared.path)
    [further] = re.findall(rf'"({shared.path}\?after=[^"#]*)#items"', first.text)
    assert ("robin.jpg" in first.text, "crow" in first.text) == (True, False)
    assert "a crow on a roof" in client.get(further).text
    # a script gets only these items
    piece = client.get(further, headers={"X-Requested-With": "fetch"}).text
    assert ("a crow on a roof" in piece, "<html" in piece) == (True, False)
    second = client.get(f"{shared.path}/items/{shared.items[0]}").text
    assert f'rel="next" href="{shared.path}/items/{shared.items[1]}"' in second


def test_visitors_need_no_cookie_and_get_none(client: FlaskClient, shared: Shared) -> None:
    for path in [*shared.paths(), f"{shared.path}/items/{uuid.uuid4()}"]:
        assert "Set-Cookie" not in client.get(path).headers, path


def test_the_address_is_kept_out_of_referrers_indexes_and_caches(client: FlaskClient, shared: Shared) -> None:
    seen = set()
    for path in [*shared.paths(), f"{shared.path}x", f"{shared.path}/no/such/page"]:
        answer = client.get(path)
        seen.add(answer.status_code)
        assert answer.headers["Referrer-Policy"] == "no-referrer", path
        assert "noindex" in answer.headers["X-Robots-Tag"], path
        kept = answer.headers["Cache-Control"]
        assert kept == ("private, no-cache" if "ETag" in answer.headers else "private, no-store"), path
    assert seen == {200, 404}
    # a picture that a browser has is asked for again, and not sent again
    thumbnail = f"{shared.path}/items/{shared.items[0]}/thumbnail"
    tag = client.get(thumbnail).headers["ETag"]
    again = client.get(thumbnail, headers={"If-None-Match": tag})
    assert (again.status_code, again.headers["Cache-Control"]) == (304, "private, no-cache")


def test_a_link_opens_no_item_of_another_collection(client: FlaskClient, ada: Caller, shared: Shared) -> None:
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    item = added(ada, other, ("secret.png", picture("green")))
    assert ada.put(f"/collections/{other}/visibility", json={"visibility": "everyone"}).status_code == 200
    for path in paths_behind(shared.app, shared.link, item):
        assert client.get(path).status_code == 404 or item not in path, path
    assert client.get(f"{shared.path}?after={item}").status_code == 404
    assert client.get(f"{shared.path}?after=nothing").status_code == 404


def test_nothing_is_downloaded_unless_the_link_allows_it(client: FlaskClient, ada: Caller, shared: Shared) -> None:
    original = client.get(f"{shared.path}/items/{shared.items[0]}/picture")
    assert place_in(original.data)
    assert original.headers["Content-Disposition"].startswith("attachment")
    assert "Download original" in client.get(f"{shared.path}/items/{shared.items[0]}").text
    plain = path_of(made(ada, f"/collections/{shared.collection}"))
    assert client.get(f"{plain}/items/{shared.items[0]}/picture").status_code == 404
    assert "Download" not in client.get(f"{plain}/items/{shared.items[0]}").text
    assert client.get(f"{plain}/items/{shared.items[0]}/rendition").status_code == 200


def test_positions_are_shown_only_if_everyone_may_see_them(client: FlaskClient, ada: Caller, shared: Shared) -> None:
    item = f"{shared.path}/items/{shared.items[0]}"
    assert "48.00000" in client.get(item).text
    ada.patch(f"/collections/{shared.collection}", json={"positions": "editors"})
    page = client.get(item).text
    assert ("48.00000" in page, "Position" in page, "Download a copy" in page) == (False, False, True)
    copy = client.get(f"{item}/picture")
    assert (copy.status_code, place_in(copy.data)) == (200, {})


def test_items_in_the_trash_are_gone_at_once_and_come_back(client: FlaskClient, ada: Caller, shared: Shared) -> None:
    paths = [path for path in shared.paths() if shared.items[0] in path and client.get(path).status_code == 200]
    assert len(paths) >= 4
    assert ada.delete(f"/items/{shared.items[0]}").status_code == 204
    assert {client.get(path).status_code for path in paths} == {404}
    assert "robin" not in client.get(shared.path).text
    ada.post(f"/collections/{shared.collection}/trash/restore", json={"items": [shared.items[0]]})
    assert {client.get(path).status_code for path in paths} == {200}


def test_wrong_links_are_counted_and_a_right_one_never_is(client: FlaskClient, shared: Shared) -> None:
    where = {"REMOTE_ADDR": "192.0.2.7"}

    def opened(path: str, **environ: str) -> int:
        return client.get(path, environ_overrides=where | environ).status_code

    # what a right link does not have is no wrong link
    for _ in range(MAX_WRONG + 1):
        assert opened(f"{shared.path}/items/{uuid.uuid4()}") == 404
    tries = [opened(f"/s/{links.PREFIX}{number}") for number in range(MAX_WRONG + 1)]
    assert tries == [404] * MAX_WRONG + [429]
    assert opened(shared.path) == 200
    assert opened("/s/wrong", REMOTE_ADDR="192.0.2.8") == 404


def test_only_a_keyed_digest_of_the_link_reaches_the_database(
    client: FlaskClient, served: Services, shared: Shared
) -> None:
    secret = shared.path.removeprefix("/s/")
    sent: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append(f"{statement} {parameters}")

    engine = served.sessions.kw["bind"]
    sa.event.listen(engine, "before_cursor_execute", note)
    assert client.get(shared.path).status_code == 200
    sa.event.remove(engine, "before_cursor_execute", note)
    with transaction(served.sessions) as session:
        digest = session.scalars(sa.select(ShareLink.digest)).one()
    assert any(digest in one for one in sent)
    # neither the link nor a part of it, so that the time of a lookup tells nothing about it
    assert not any(secret[4:12] in one for one in sent)
    assert links.digest_of(b"another key", secret) != digest


def test_decoding_for_visitors_counts_as_that_of_the_maker(
    client: FlaskClient, ada: Caller, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[uuid.UUID] = []
    place = DecodingLine.place

    def noted(self: DecodingLine, account: uuid.UUID) -> Any:
        charged.append(account)
        return place(self, account)

    monkeypatch.setattr(DecodingLine, "place", noted)
    assert client.get(f"{shared.path}/items/{shared.items[1]}/rendition").status_code == 200
    assert charged == [ada.user.id]


def test_a_link_to_a_result_opens_its_items_and_no_others(
    app: OpenAPI, client: FlaskClient, ada: Caller, searched: Searched, texts: str
) -> None:
    searched.score(1, 0.25)
    searched.score(2, 0.75)
    searched.finish([2, 1, 3])
    other = added(ada, texts, ("later.png", picture("green")))
    link = made(ada, f"/searches/{searched.id}", downloads=True)
    path = path_of(link)
    page = client.get(path)
    assert page.text.index("wren") < page.text.index("robin")
    for shown in ("&lt;b&gt;a small bird&lt;/b&gt;", "0.7500"):
        assert shown in page.text
    for hidden in ("later.png", "Birds", ">ada<", "some scorer"):
        assert hidden not in page.text
    first, second = searched.items[1], searched.items[0]
    item = client.get(f"{path}/items/{first}")
    assert f'rel="next" href="{path}/items/{second}"' in item.text
    behind = [one for one in paths_behind(app, link, other) if other in one]
    assert {client.get(one).status_code for one in behind} == {404}
    # it is listed with the search, and with the collection
    for place in (f"/searches/{searched.id}", f"/collections/{texts}"):
        assert [one["id"] for one in ada.get(f"{place}/links").json["links"]] == [link["id"]]
    ada.delete(f"/items/{first}")
    assert "wren" not in client.get(path).text
    assert client.get(f"{path}/items/{first}").status_code == 404
