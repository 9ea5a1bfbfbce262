"""A prefix of a bucket is imported as a folder is, and nothing outside of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import s3fs
from tests.object_store import Buckets, object_store
from tests.unit.imports.conftest import Imports
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus
from retllm.errors import Forbidden, InvalidInput, StorageUnavailable
from retllm.imports import buckets as prefixes
from retllm.imports.allowing import allowed
from retllm.media import objects
from retllm.media.clutter import ClutterCount


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    with object_store() as made:
        objects._opened.cache_clear()
        yield made
    objects._opened.cache_clear()


@pytest.fixture
def bucket(buckets: Buckets) -> str:
    return buckets()


def put(bucket: str, **files: bytes) -> None:
    """Write objects; an underscore in a name is a dot, and two are a slash."""
    fs = s3fs.S3FileSystem()
    for name, content in files.items():
        fs.pipe_file(f"{bucket}/{key(name)}", content)


def key(name: str) -> str:
    return name.replace("__", "/").replace("_", ".")


def delete(bucket: str, name: str) -> None:
    s3fs.S3FileSystem().rm_file(f"{bucket}/{key(name)}")


@pytest.fixture
def imports(uploads: Uploads, bucket: str, tmp_path: Any) -> Iterator[Imports]:
    address = f"s3://{bucket}/photos"
    uploads.context = replace(uploads.context, storage=replace(uploads.context.storage, roots=(address,)))
    with allowed(f"{address}/2019/", [address]) as folder:
        yield Imports(uploads, tmp_path, folder)


@pytest.mark.parametrize("address", ["", "/photos-private/", "/photos/../photos-private/", "/photo", "x/photos/"])
def test_nothing_outside_of_an_allowed_prefix_is_imported(bucket: str, address: str) -> None:
    with pytest.raises((Forbidden, InvalidInput), match=r"may not be imported|no prefix"):
        allowed(f"s3://{bucket}{address}", [f"s3://{bucket}/photos", "/srv"])
    with pytest.raises(Forbidden, match="may not be imported"):
        allowed(f"s3://{bucket}/photos", ["/srv"])


def test_a_prefix_is_imported_with_all_in_it_and_what_is_beside_it_stays(imports: Imports, bucket: str) -> None:
    put(
        bucket,
        photos__2019__a_png=picture(1),
        photos__2019__june__b_png=picture(2),
        photos__2019__captions_csv=b"file,caption\na.png,a cat\n",
        photos__2019__all_zip=packed({"c.png": picture(3)}),
        photos__2019__bad_png=picture(1)[:40],
        photos__2019__Thumbs_db=b"x",
        photos__2019x_png=picture(4),
        photos__2020__d_png=picture(5),
        secret_png=picture(6),
    )
    s3fs.S3FileSystem().pipe_file(f"{bucket}/photos/2019/empty/", b"")
    found = imports.run()
    assert (found.files, found.new, found.changed, found.gone) == (5, 5, 0, 0)
    assert imports.names() == ["2019/a.png", "2019/june/b.png", "c.png"]
    assert imports.uploads.items()["2019/a.png"].text == "a cat"
    assert imports.statuses()["2019/bad.png"] is FileStatus.REJECTED
    assert imports.statuses()["2019/Thumbs.db"] is FileStatus.IGNORED
    assert not imports.run().has_news
    imports.uploads.check()


def test_what_is_new_changed_and_gone_is_noticed(imports: Imports, bucket: str) -> None:
    put(bucket, photos__2019__a_png=picture(1), photos__2019__b_png=picture(2), photos__2019__c_png=picture(3))
    imports.run()
    before = imports.known()[b"c.png"]
    # the same content once more: another time, and nothing to do
    put(bucket, photos__2019__a_png=picture(4), photos__2019__c_png=picture(3), photos__2019__d_png=picture(5))
    delete(bucket, "photos__2019__b_png")
    found = imports.run()
    assert (found.new, found.changed, found.gone) == (1, 1, 1)
    assert imports.statuses() == {"2019/a.png": FileStatus.ADDED, "2019/d.png": FileStatus.ADDED}
    after = imports.known()[b"c.png"]
    assert (after.file_id, after.etag) == (before.file_id, before.etag)
    imports.remove_missing(found)
    assert imports.names() == ["2019/a.png", "2019/c.png", "2019/d.png"]


def test_another_etag_alone_is_a_change(imports: Imports, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, photos__2019__a_png=picture(1))
    imports.run()
    (page,) = objects.listed(imports.folder.prefix)  # type: ignore[attr-defined]
    ((name, facts),) = page
    monkeypatch.setattr(prefixes, "listed", lambda _: iter([[(name, replace(facts, version='"another"'))]]))
    opened: list[bytes] = []
    whole = imports.folder.open
    monkeypatch.setattr(imports.folder, "open", lambda path: (opened.append(path), whole(path))[1])
    assert not imports.scan().has_news
    assert opened == [b"a.png"]


def test_a_large_prefix_is_listed_page_by_page(imports: Imports, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, **{f"photos__2019__{n:03}_png": b"x" for n in range(25)})
    requests: list[dict[str, Any]] = []
    call = objects._call

    def small(method: str, **request: Any) -> Any:
        requests.append(request)
        return call(method, MaxKeys=10, **request)

    monkeypatch.setattr(objects, "_call", small)
    listing = imports.folder.files(ClutterCount())
    assert next(listing).path == b"000.png"
    assert len(requests) == 1
    assert [one.path for one in listing] == [f"{n:03}.png".encode() for n in range(1, 25)]
    assert len(requests) == 3


def test_keys_that_would_lead_elsewhere_are_told_and_never_read(imports: Imports, bucket: str) -> None:
    put(bucket, photos__2019__a_png=picture(1))
    fs = s3fs.S3FileSystem()
    for strange in ("photos/2019/../key.png", "photos/2019//b.png", "photos/2019/c.png/"):
        fs.call_s3("put_object", Bucket=bucket, Key=strange, Body=picture(9))
    found = imports.run()
    assert (found.files, found.rejected) == (1, 3)
    assert imports.names() == ["2019/a.png"]


def test_a_bucket_that_is_not_there_or_away_is_told(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        allowed("s3://no-such-bucket/a/", ["s3://no-such-bucket"]) as folder,
        pytest.raises(InvalidInput, match="no such"),
    ):
        list(folder.files(ClutterCount()))

    def away(_: str, **_request: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(objects, "_call", away)
    with pytest.raises(StorageUnavailable):
        list(imports.folder.files(ClutterCount()))


def test_an_emptied_prefix_deletes_nothing(imports: Imports, bucket: str) -> None:
    put(bucket, photos__2019__a_png=picture(1))
    imports.run()
    delete(bucket, "photos__2019__a_png")
    with pytest.raises(InvalidInput, match="has no files"):
        imports.run()


def test_originals_in_a_bucket_may_stay_there(imports: Imports, bucket: str) -> None:
    put(bucket, photos__2019__a_png=picture(1))
    imports.reference = True
    imports.run()
    item = imports.uploads.items()["2019/a.png"]
    assert (item.original_root, item.original_path) == (f"s3://{bucket}/photos/", b"2019/a.png")
    assert imports.uploads.context.pictures.open(item).getpixel((0, 0)) == (1, 0, 77)
    imports.uploads.check()
