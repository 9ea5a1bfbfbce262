"""An original that is not copied is read where it lies: that file alone, and only while it is allowed and the same."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import s3fs
from tests.object_store import Buckets, object_store

from retllm.errors import NotFound, OriginalLost, StorageUnavailable
from retllm.media import objects
from retllm.media.objects import ObjectFile
from retllm.media.originals import CHANGED, MISSING, LocalFile, Original
from retllm.media.references import NOT_ALLOWED, Place, Reference, root_problem
from retllm.media.storage import Storage

_KEY = "items/aa/one/original"


@dataclass
class Outside:
    """A place outside of the storage, of which ``root`` is allowed; the file is ``photos/a.png`` in it."""

    top: str
    write: Callable[[str, bytes], None]
    delete: Callable[[str], None]
    opened: Callable[[str], Original]

    @property
    def root(self) -> str:
        return f"{self.top}/photos/"


def _folder(path: Path) -> Outside:
    def write(name: str, content: bytes) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)

    return Outside(
        str(path),
        write,
        lambda name: (path / name).unlink(),
        lambda name: LocalFile(os.open(path / name, os.O_RDONLY)),
    )


def _bucket(name: str) -> Outside:
    fs = s3fs.S3FileSystem()
    return Outside(
        f"s3://{name}",
        # other methods take what follows a question mark for a version
        lambda key, content: fs.call_s3("put_object", Bucket=name, Key=key, Body=content),
        lambda key: fs.rm_file(f"{name}/{key}"),
        lambda key: ObjectFile(name, key),
    )


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    with object_store() as made:
        objects._opened.cache_clear()
        yield made
    objects._opened.cache_clear()


@pytest.fixture(params=["folder", "bucket"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> Outside:
    if request.param == "folder":
        return _folder(tmp_path / "drive")
    return _bucket(request.getfixturevalue("buckets")())


@pytest.fixture
def storage(outside: Outside, tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/media", (outside.root,))


def refer(storage: Storage, outside: Outside, content: bytes = b"content", path: bytes = b"a.png") -> str:
    """Write a file outside, and store a reference to it; return its key."""
    name = f"photos/{path.decode()}"
    outside.write(name, content)
    with outside.opened(name) as file:
        version = file.facts.version
    root = outside.root if outside.root.startswith("s3://") else str(Path(outside.root).resolve())
    reference = Reference.to(Place(root, path), len(content), version, hashlib.sha256(content).hexdigest())
    return storage.refer(_KEY, reference)


def test_the_original_is_read_where_it_lies_and_nothing_is_kept_of_it(storage: Storage, outside: Outside) -> None:
    content = os.urandom(3 << 20)
    key = refer(storage, outside, content)
    assert storage.size(key) == len(content)
    assert storage.problem(key) is None
    with storage.open(key) as file:
        assert file.read(4) == content[:4]
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        file.seek(0)
        assert file.read() == content
        assert file.read() == b""
    stored = [path.stat().st_size for path in Path(storage.url.removeprefix("file://")).rglob("*") if path.is_file()]
    assert sum(stored) < 1000


def test_a_copy_of_the_storage_for_another_process_reads_it_too(storage: Storage, outside: Outside) -> None:
    key = refer(storage, outside)
    with pickle.loads(pickle.dumps(storage)).open(key) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("name", ["a b?versionId=1#c.png", "ä%2e.png", "2019/b.png"])
def test_any_name_leads_to_its_file(storage: Storage, outside: Outside, name: str) -> None:
    with storage.open(refer(storage, outside, path=name.encode())) as file:
        assert file.read() == b"content"


def test_a_file_that_is_gone_is_told(storage: Storage, outside: Outside) -> None:
    key = refer(storage, outside)
    outside.delete("photos/a.png")
    assert storage.problem(key) == MISSING
    with pytest.raises(OriginalLost) as lost:
        storage.open(key)
    assert lost.value.message == MISSING


@pytest.mark.parametrize("content", [b"CONTENT", b"longer content", b""])
def test_no_other_content_is_given_in_its_place(storage: Storage, outside: Outside, content: bytes) -> None:
    key = refer(storage, outside)
    outside.write("photos/a.png", content)
    assert storage.problem(key) == CHANGED
    with pytest.raises(OriginalLost, match="changed"):
        storage.open(key)


def test_the_same_content_with_another_time_is_the_same(storage: Storage, outside: Outside) -> None:
    key = refer(storage, outside)
    outside.delete("photos/a.png")
    outside.write("photos/a.png", b"content")
    assert storage.problem(key) is None
    with storage.open(key) as file:
        assert file.read() == b"content"


def test_reading_ends_when_the_file_changes_meanwhile(storage: Storage, outside: Outside) -> None:
    content = os.urandom(4 << 20)
    key = refer(storage, outside, content)
    with storage.open(key) as file:
        assert file.read(1 << 20) == content[: 1 << 20]
        outside.write("photos/a.png", os.urandom(4 << 20))
        with pytest.raises(OriginalLost, match="changed"):
            file.read(2 << 20)


def test_a_place_that_is_not_allowed_any_more_is_not_read(storage: Storage, outside: Outside) -> None:
    key = refer(storage, outside)
    for roots in ((), (f"{outside.top}/photo",), (f"{outside.top}/photos/a",), (f"{outside.top}/other/",)):
        forbidding = Storage(storage.url, roots)
        assert forbidding.problem(key) == NOT_ALLOWED
        with pytest.raises(OriginalLost, match="RETLLM_IMPORT_ROOTS"):
            forbidding.open(key)
        assert root_problem(outside.root, roots) == "it is not in RETLLM_IMPORT_ROOTS."
    with Storage(storage.url, (outside.top,)).open(key) as file:
        assert file.read() == b"content"


@pytest.mark.parametrize("path", [b"../private/key.png", b"inner/../../private/key.png", b"./a.png", b"/etc/passwd"])
def test_a_forged_reference_leads_nowhere(storage: Storage, outside: Outside, path: bytes) -> None:
    outside.write("private/key.png", b"content")
    key = refer(storage, outside)
    reference = replace(storage.reference(key), path=path.decode())
    storage.refer(_KEY, reference)
    with pytest.raises(OriginalLost):
        storage.open(key)


def test_a_prefix_is_no_beginning_of_a_name(storage: Storage, outside: Outside) -> None:
    outside.write("photos-private/key.png", b"content")
    key = refer(storage, outside)
    top = outside.top if outside.top.startswith("s3://") else str(Path(outside.top).resolve())
    storage.refer(_KEY, replace(storage.reference(key), root=top, path="photos-private/key.png"))
    with pytest.raises(OriginalLost, match="RETLLM_IMPORT_ROOTS"):
        storage.open(key)


def test_deleting_a_reference_deletes_no_original(storage: Storage, outside: Outside) -> None:
    key = refer(storage, outside)
    storage.copy(key, "items/aa/two/original.reference")
    storage.delete(key)
    storage.delete_all(["items/aa/two/original.reference"])
    assert not storage.exists(key)
    with outside.opened("photos/a.png") as file:
        assert file.read() == b"content"


def test_a_copy_of_a_reference_is_one_and_any_other_copy_is_the_original(storage: Storage, outside: Outside) -> None:
    key = refer(storage, outside)
    storage.copy(key, "items/aa/two/original.reference")
    storage.copy(key, "queries/one/picture")
    assert storage.reference("items/aa/two/original.reference") == storage.reference(key)
    outside.delete("photos/a.png")
    with storage.open("queries/one/picture") as file:
        assert file.read() == b"content"
    with pytest.raises(OriginalLost):
        storage.open("items/aa/two/original.reference")
    with pytest.raises(OriginalLost):
        storage.copy(key, "queries/two/picture")
    assert not storage.exists("queries/two/picture")


def test_a_damaged_reference_is_told(storage: Storage) -> None:
    storage.put(f"{_KEY}.reference", io.BytesIO(b"{"))
    with pytest.raises(NotFound, match="damaged"):
        storage.open(f"{_KEY}.reference")
    assert "damaged" in str(storage.problem(f"{_KEY}.reference"))


def test_a_link_in_the_place_of_a_file_or_folder_is_not_followed(tmp_path: Path) -> None:
    outside = _folder(tmp_path / "drive")
    storage = Storage(f"file://{tmp_path}/media", (outside.root,))
    key = refer(storage, outside, path=b"inner/a.png")
    outside.write("private/a.png", b"content")
    inner = tmp_path / "drive" / "photos" / "inner"
    (inner / "a.png").unlink()
    (inner / "a.png").symlink_to(tmp_path / "drive" / "private" / "a.png")
    with pytest.raises(OriginalLost):
        storage.open(key)
    (inner / "a.png").unlink()
    inner.rmdir()
    inner.symlink_to(tmp_path / "drive" / "private")
    with pytest.raises(OriginalLost):
        storage.open(key)


def test_a_pipe_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    outside = _folder(tmp_path / "drive")
    storage = Storage(f"file://{tmp_path}/media", (outside.root,))
    key = refer(storage, outside)
    outside.delete("photos/a.png")
    os.mkfifo(tmp_path / "drive" / "photos" / "a.png")
    with pytest.raises(OriginalLost, match="missing"):
        storage.open(key)


def test_a_folder_that_is_away_is_told_of_its_root(tmp_path: Path) -> None:
    assert root_problem(str(tmp_path / "drive"), (str(tmp_path),)) == "there is no such folder."
    assert root_problem(str(tmp_path), (str(tmp_path),)) is None


def test_a_bucket_that_can_not_be_reached_is_no_lost_original(
    tmp_path: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = _bucket(buckets())
    storage = Storage(f"file://{tmp_path}/media", (outside.root,))
    key = refer(storage, outside)

    def away(_: str, **_request: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(objects, "_call", away)
    with pytest.raises(StorageUnavailable, match="try again") as error:
        storage.open(key)
    assert outside.top not in error.value.message
    assert storage.problem(key) == error.value.message
