"""Items that come into the trash while real workers index them and search among them are whole when restored."""

from __future__ import annotations

import pytest
from tests.functional.conftest import SEED

from retllm.cli.client import Api, open_api
from retllm.cli.up import Admin
from retllm.db.session import make_sessions
from retllm.demo.world import write_collection
from retllm.media.storage import get_storage
from retllm.queue.audit import violations
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm.stack.client_file import read_client

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def api(stack: LocalStack, admin: Admin) -> Api:
    return open_api(stack.url, read_client(stack.home)["token"])


def test_items_in_the_trash_are_embedded_and_scored_and_come_back_whole(
    stack: LocalStack, api: Api, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("trash")
    queries = write_collection(folder, 3, SEED)
    key = api.call("POST", "/collections", json={"name": "Trash while indexing"})["id"]
    here = f"/collections/{key}"
    files = [("file", (one.file, (folder / one.file).read_bytes())) for one in queries]
    job = api.call("POST", f"{here}/items?wait=60", files=files)["job_id"]
    items = [one["id"] for one in api.pages(f"{here}/items", "items")]
    # while the job embeds them
    for start in range(0, len(items), 4):
        away = api.call("POST", f"{here}/items/delete", json={"items": items[start : start + 4]})
        assert (away["done"], away["trashed"]) == (items[start : start + 4], True)
    assert api.get(here)["items_total"] == 0
    assert api.watch(job, lambda _: None)["state"] == "succeeded"
    restored = api.call("POST", f"{here}/trash/restore", json={"all": True})
    assert sorted(restored["done"]) == sorted(items)
    after = api.get(here)
    assert (after["items_total"], after["items_indexed"], after["items_failed"]) == (len(items), len(items), 0)

    search = api.submit(f"{here}/searches", json={"text": queries[0].query, "k": 6})["id"]
    api.call("POST", f"{here}/items/delete", json={"items": items})
    assert api.watch(search, lambda _: None)["state"] == "succeeded"
    found = api.get(f"/searches/{search}")["candidates"]
    assert {one["item_state"] for one in found} <= {"trashed"}
    api.call("POST", f"{here}/trash/restore", json={"all": True})
    again = api.get(f"/searches/{search}")["candidates"]
    assert [(one["item_id"], one["score"]) for one in again] == [(one["item_id"], one["score"]) for one in found]
    assert {one["item_state"] for one in again} <= {"ready"}

    api.call("DELETE", here)
    assert api.call("POST", f"{here}/restore")["items_total"] == len(items)
    settings = Settings(home=stack.home, database_url=stack.database_url, redis_url=stack.redis_url)
    sessions = make_sessions(stack.database_url)
    try:
        assert [str(one) for one in violations(sessions, get_storage(settings))] == []
    finally:
        sessions.kw["bind"].dispose()
