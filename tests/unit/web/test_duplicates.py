"""The API looks for near-duplicates, lists their groups in pages, and dismisses them; a deletion may merge first."""

from __future__ import annotations

import io
import random
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from PIL import Image
from tests.unit.web.conftest import Caller
from tests.unit.web.test_item_changes import added

from retllm.bench.duplicates import CHANGES
from retllm.db.enums import JobKind
from retllm.demo.scenes import random_scene, render
from retllm.identity.audit import Action
from retllm_web.http.services import Services


def file_of(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.save(target, "PNG")
    return target.getvalue()


def scene(number: int) -> Image.Image:
    return render(random_scene(random.Random(number), held_out=True), 256)


@pytest.fixture
def pictures(ada: Caller, birds: str) -> dict[str, str]:
    """Three pictures, each in full size and in half of it; the small ones were added first."""
    half = CHANGES["resized to a half"]
    files = {f"small/{n}.png": file_of(half(scene(n))) for n in range(3)}
    files |= {f"large/{n}.png": file_of(scene(n)) for n in range(3)}
    return {name: added(ada, birds, (name, file)) for name, file in files.items()}


def listed(caller: Caller, collection: str, **query: Any) -> dict[str, Any]:
    answer = caller.get(f"/collections/{collection}/duplicates", query_string=query)
    assert answer.status_code == 200, answer.json
    return dict(answer.json)


def look(caller: Caller, collection: str, **headers: str) -> Any:
    return caller.post(f"/collections/{collection}/duplicates", headers=headers)


def names(found: dict[str, Any]) -> list[list[str]]:
    return [[one["item"]["name"] for one in group["pictures"]] for group in found["groups"]]


def test_groups_are_listed_with_the_picture_to_keep_first(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    assert listed(ada, birds) | {"groups": []} == {
        "job_id": None,
        "compared_at": None,
        "pictures": None,
        "out_of_date": False,
        "groups": [],
        "next": None,
    }
    answer = look(ada, birds)
    assert (answer.status_code, answer.json["kind"]) == (202, JobKind.DUPLICATES)
    found = listed(ada, birds)
    assert (found["job_id"], found["pictures"], found["out_of_date"]) == (answer.json["id"], 6, False)
    assert sorted(names(found)) == [[f"large/{n}.png", f"small/{n}.png"] for n in range(3)]
    for group in found["groups"]:
        assert [one["keep"] for one in group["pictures"]] == [True, False]
        assert all(one["distance"] <= 6 and one["similarity"] is None for one in group["pictures"])
    added(ada, birds, ("new.png", file_of(scene(9))))
    assert listed(ada, birds)["out_of_date"]


def test_groups_come_in_pages(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    look(ada, birds)
    everything = listed(ada, birds)
    pages: list[dict[str, Any]] = []
    after = None
    while not pages or after:
        page = listed(ada, birds, limit=1, **({"after": after} if after else {}))
        pages += page["groups"]
        after = page["next"]
    assert pages == everything["groups"]
    assert len(pages) == 3


def test_a_repeated_request_with_the_same_key_gives_the_same_job(
    ada: Caller, birds: str, pictures: dict[str, str]
) -> None:
    first, again = (look(ada, birds, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json["id"] == again.json["id"]
    assert look(ada, birds).json["id"] != first.json["id"]


def test_a_group_is_dismissed_until_all_are_restored(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    look(ada, birds)
    before = listed(ada, birds)
    group = before["groups"][1]["id"]
    assert ada.post(f"/collections/{birds}/duplicates/{group}/dismiss").status_code == 204
    assert ada.post(f"/collections/{birds}/duplicates/{group}/dismiss").status_code == 404
    left = [before["groups"][0], before["groups"][2]]
    assert listed(ada, birds)["groups"] == left
    look(ada, birds)
    assert sorted(names(listed(ada, birds))) == sorted(names({"groups": left}))
    assert ada.post(f"/collections/{birds}/duplicates/restore").status_code == 204
    look(ada, birds)
    assert sorted(names(listed(ada, birds))) == sorted(names(before))


def test_a_group_of_another_collection_is_not_found(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    look(ada, birds)
    group = listed(ada, birds)["groups"][0]["id"]
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    assert ada.post(f"/collections/{other}/duplicates/{group}/dismiss").status_code == 404
    assert ada.post(f"/collections/{birds}/duplicates/{uuid4()}/dismiss").status_code == 404
    assert len(listed(ada, birds)["groups"]) == 3


def test_an_empty_collection_is_refused(ada: Caller, birds: str) -> None:
    answer = look(ada, birds)
    assert (answer.status_code, "empty" in answer.json["error"]["message"]) == (409, True)


def test_the_filter_finds_what_has_near_duplicates(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    added(ada, birds, ("alone.png", file_of(scene(9))))
    look(ada, birds)

    def matching(text: str) -> list[str]:
        answer = ada.get(f"/collections/{birds}/items", query_string={"filter": text})
        assert answer.status_code == 200, answer.json
        return sorted(one["name"] for one in answer.json["items"])

    assert matching("has duplicates") == sorted(pictures)
    assert matching("not has duplicates") == ["alone.png"]
    assert matching("duplicates = 1") == sorted(pictures)
    assert matching("duplicates > 1") == []
    ada.delete(f"/items/{pictures['small/1.png']}")
    assert matching("not has duplicates") == ["alone.png", "large/1.png"]


def test_what_people_decide_is_in_the_audit_log(
    ada: Caller, root: Caller, birds: str, pictures: dict[str, str], app: Flask, served: Services
) -> None:
    look(ada, birds)
    ada.post(f"/collections/{birds}/duplicates/{listed(ada, birds)['groups'][0]['id']}/dismiss")
    ada.post(f"/collections/{birds}/duplicates/restore")
    ada.post(f"/collections/{birds}/duplicates/restore")
    entries = [one["action"] for one in root.get("/audit").json["entries"]]
    assert entries[:2] == [Action.DUPLICATES_RESTORED, Action.DUPLICATES_DISMISSED]
    assert entries.count(Action.DUPLICATES_RESTORED) == 1, "the second one changed nothing"
