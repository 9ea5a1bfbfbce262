"""Files are stored by key, in a folder or in an object store."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import stat
import threading
import tracemalloc
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.object_store import Buckets, object_store

from retllm.errors import NotFound, StackError
from retllm.media.storage import Storage, get_storage
from retllm.settings import Settings


@pytest.fixture(params=["file", "memory", "s3"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage in a folder, one in memory, which has no folders, and one in a bucket of a real server."""
    if request.param == "s3":
        return Storage(f"s3://{request.getfixturevalue('buckets')()}/media")
    return Storage(f"file://{tmp_path}/media" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    """Makes buckets on a server of the S3 protocol."""
    with object_store() as made:
        yield made


def test_a_stored_file_can_be_read_replaced_and_deleted(any_storage: Storage) -> None:
    key = "items/aa/one/original"
    assert not any_storage.exists(key)
    assert any_storage.put(key, io.BytesIO(b"content")) == 7
    assert any_storage.exists(key)
    assert any_storage.size(key) == 7
    with any_storage.open(key) as file:
        assert file.read() == b"content"
    any_storage.put(key, io.BytesIO(b"other"))
    with any_storage.open(key) as file:
        assert file.read() == b"other"
    any_storage.delete(key)
    assert not any_storage.exists(key)
    any_storage.delete(key)


def test_many_files_are_deleted_at_once(any_storage: Storage) -> None:
    keys = [f"items/aa/{n}/original" for n in range(5)]
    for key in keys:
        any_storage.put(key, io.BytesIO(b"content"))
    any_storage.delete_all([keys[0], "items/aa/none/original", keys[1], keys[1]])
    assert [any_storage.exists(key) for key in keys] == [False, False, True, True, True]
    any_storage.delete_all([])
    any_storage.delete_all(["items/none"])


def test_a_missing_file_raises_not_found(any_storage: Storage) -> None:
    with pytest.raises(NotFound):
        any_storage.open("items/none")
    with pytest.raises(NotFound):
        any_storage.size("items/none")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a"])
def test_a_key_that_is_not_a_plain_relative_path_is_refused(any_storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="storage key"):
        any_storage.put(key, io.BytesIO(b"x"))
    with pytest.raises(ValueError, match="storage key"):
        any_storage.open(key)


class Breaking(io.RawIOBase):
    """Returns some bytes, then fails."""

    def __init__(self) -> None:
        super().__init__()
        self.given = False

    def read(self, size: int = -1) -> bytes:
        if self.given:
            raise ConnectionResetError("gone")
        self.given = True
        return b"half"


def test_an_interrupted_write_leaves_no_partial_file(any_storage: Storage, tmp_path: Path) -> None:
    any_storage.put("items/kept", io.BytesIO(b"before"))
    for key in ("items/new", "items/kept"):
        with pytest.raises(ConnectionResetError):
            any_storage.put(key, Breaking())  # type: ignore[arg-type]
    assert not any_storage.exists("items/new")
    with any_storage.open("items/kept") as file:
        assert file.read() == b"before"
    fs, root = any_storage._filesystem()
    assert fs.find(root) == [f"{root}/items/kept"]


class Zeros(io.RawIOBase):
    """A stream of ``left`` zero bytes that are generated as they are read."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "the whole file was read at once"
        count = min(size, self.left)
        self.left -= count
        self.largest = max(self.largest, count)
        return bytes(count)


def test_storing_a_large_file_needs_little_memory(storage: Storage) -> None:
    storage.put("items/warm", io.BytesIO(b"x"))
    tracemalloc.start()
    try:
        assert storage.put("items/large", Zeros(100 << 20)) == 100 << 20  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
    assert storage.size("items/large") == 100 << 20


def test_the_folder_of_an_item_is_removed_with_its_last_file(storage: Storage, settings: Settings) -> None:
    for name in ("original", "thumbnail.webp"):
        storage.put(f"items/aa/one/{name}", io.BytesIO(b"x"))
    storage.delete("items/aa/one/original")
    assert (settings.home_path / "media/items/aa/one").is_dir()
    storage.delete("items/aa/one/thumbnail.webp")
    assert not (settings.home_path / "media/items/aa/one").exists()


def test_a_storage_creates_no_folder_before_its_first_use(tmp_path: Path) -> None:
    Storage(f"file://{tmp_path}/media")
    assert not (tmp_path / "media").exists()


def _read_in_child(storage: Storage) -> bytes:
    with storage.open("items/one") as file:
        return file.read() + str(storage._opened[0] == os.getpid() if storage._opened else None).encode()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_used_storage_works_in_a_child_process(storage: Storage, method: str) -> None:
    storage.put("items/one", io.BytesIO(b"content"))
    if method == "spawn":
        # a spawned child gets a pickle; starting one would import the tests again
        assert _read_in_child(pickle.loads(pickle.dumps(storage))) == b"contentTrue"
        return
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: sender.send_bytes(_read_in_child(storage)))
    child.start()
    assert receiver.poll(30)
    assert receiver.recv_bytes() == b"contentTrue"
    child.join(30)


@pytest.mark.parametrize("url", ["nosuch://bucket/path", "file:///proc/none/media"])
def test_the_error_for_an_unusable_address_names_the_setting(url: str) -> None:
    with pytest.raises(StackError, match="RETLLM_STORAGE_URL"):
        Storage(url).exists("items/one")


def test_the_storage_has_the_address_of_the_settings(tmp_path: Path) -> None:
    assert get_storage(Settings(home=tmp_path)).url == f"file://{tmp_path.resolve()}/media"
    assert get_storage(Settings(storage_url="memory://x")).url == "memory://x"


@pytest.mark.parametrize(("umask", "mode"), [("077", 0o700), ("007", 0o770)])
def test_a_folder_that_others_can_read_is_closed_to_them(tmp_path: Path, umask: str, mode: int) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    folder.chmod(0o777)
    get_storage(Settings(home=tmp_path, umask=umask))
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_sweeping_deletes_only_old_temporary_files(any_storage: Storage) -> None:
    any_storage.put("items/aa/one/original", io.BytesIO(b"content"))
    for name in ("tmp/one", "tmp/two", "tmp/three"):
        any_storage.put(name, io.BytesIO(b"half"))
    assert any_storage.sweep(timedelta(hours=1)) == 0
    assert any_storage.exists("tmp/one")
    # all temporary files are older than this
    assert any_storage.sweep(timedelta(seconds=-1), limit=2) == 2
    assert any_storage.sweep(timedelta(seconds=-1)) == 1
    assert any_storage.exists("items/aa/one/original")
    assert any_storage.sweep(timedelta(seconds=-1)) == 0


def test_sweeping_an_empty_storage_deletes_nothing(any_storage: Storage) -> None:
    assert any_storage.sweep(timedelta()) == 0


def test_a_file_is_stored_although_its_folder_is_removed_meanwhile(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                (tmp_path / "uploads" / "a").rmdir()

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for number in range(200):
            key = f"uploads/a/{number}"
            storage.put(key, io.BytesIO(b"bytes"))
            assert storage.size(key) == 5
            storage.delete(key)
    finally:
        stop.set()
        thread.join()


def test_a_copy_stays_when_its_original_is_deleted_or_replaced(any_storage: Storage) -> None:
    any_storage.put("uploads/a", io.BytesIO(b"content"))
    any_storage.put("sources/b/original", io.BytesIO(b"older"))
    any_storage.copy("uploads/a", "sources/b/original")
    any_storage.put("uploads/a", io.BytesIO(b"other"))
    any_storage.delete("uploads/a")
    with any_storage.open("sources/b/original") as file:
        assert file.read() == b"content"
    with pytest.raises(NotFound):
        any_storage.copy("uploads/a", "sources/c/original")
    assert not any_storage.exists("sources/c/original")


def test_the_same_copy_made_twice_leaves_nothing_else(any_storage: Storage) -> None:
    any_storage.put("uploads/a", io.BytesIO(b"bytes"))
    for _ in range(2):
        any_storage.copy("uploads/a", "items/b/original")
    assert any_storage.open("items/b/original").read() == b"bytes"
    assert any_storage.sweep(timedelta(seconds=-10)) == 0


def test_a_copy_in_a_folder_takes_no_room(storage: Storage, settings: Settings) -> None:
    storage.put("a", io.BytesIO(b"content"))
    storage.copy("a", "b")
    root = settings.home_path / "media"
    assert (root / "a").samefile(root / "b")
    assert list((root / "tmp").iterdir()) == []


def test_without_hard_links_a_copy_has_its_own_bytes(
    storage: Storage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage.put("a", io.BytesIO(b"content"))
    storage.copy("a", "b")
    root = settings.home_path / "media"
    assert (root / "b").read_bytes() == b"content"
    assert not (root / "a").samefile(root / "b")
