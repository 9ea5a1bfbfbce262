"""Two hosts with one database, Redis and bucket, but no common disk: one serves the web, the other has all workers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.remote_scorers import client, wait
from tests.object_store import object_store, stored

from retllm.cli.client import Api
from retllm.demo.world import write_collection
from retllm.settings import Settings
from retllm.stack import LocalStack
from retllm.stack.commands import QUEUES

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket."""
    with object_store() as buckets:
        yield buckets()


@pytest.fixture(scope="module")
def api(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A client of the first host."""
    # short, since a socket lies in it
    folder = tmp_path_factory.mktemp("hosts")
    common: dict[str, Any] = {"storage_url": f"s3://{bucket}/media", "preset": "demo", "torch_threads": 1}
    first = Settings(home=folder / "1", database_url=None, redis_url=None, port=0, **common)
    with LocalStack(first, {"postgres", "redis", "migrate", "web", "dispatch"}, durable=False) as web:
        servers = {"database_url": web.database_url, "redis_url": web.redis_url}
        with LocalStack(Settings(home=folder / "2", **servers, **common), QUEUES):
            yield client(web)
        assert not list(folder.rglob("*.png"))


def test_what_one_host_receives_the_other_one_reads_and_nothing_is_left_of_what_is_deleted(
    api: Api, bucket: str, tmp_path: Path
) -> None:
    queries = write_collection(tmp_path, 1, 4715)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for query in queries:
            archive.write(tmp_path / query.file, query.file)
    collection = api.call("POST", "/collections", json={"name": "scenes"})["id"]
    files = [("file", ("scenes.zip", packed.getvalue()))]
    job = api.call("POST", f"/collections/{collection}/items", files=files)["job_id"]
    assert api.watch(job, lambda _: None)["state"] == "succeeded"
    originals = [key for key in stored(bucket) if key.endswith("/original")]
    assert len(originals) == len(queries)
    assert not [key for key in stored(bucket) if "/uploads/" in key or "/tmp/" in key]

    picture = ("picture", ("query.png", (tmp_path / queries[0].file).read_bytes()))
    search = api.call(
        "POST", f"/collections/{collection}/searches", files=[picture], data={"query": json.dumps({"k": 4})}
    )["id"]
    assert api.watch(search, lambda _: None)["state"] == "succeeded"
    results = api.get(f"/searches/{search}")["candidates"]
    assert len(results) == 4
    assert all(row["score"] is not None for row in results)
    nearest = max(results, key=lambda row: row["similarity"])
    assert nearest["name"].endswith(queries[0].file)

    api.call("DELETE", f"/collections/{collection}")
    wait(lambda: not stored(bucket), "files of a deleted collection are left")
