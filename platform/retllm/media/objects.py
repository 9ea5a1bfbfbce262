"""Objects of S3 buckets that are read where they are: listed page by page, and read as the version that was found.

Credentials and addresses come from the environment, as those of a storage in a bucket do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.asyn import sync

from retllm.errors import OriginalLost, StackError
from retllm.import_roots import Prefix
from retllm.media.originals import CHANGED, Facts, Original

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ObjectFile(Original):
    """An object of a bucket; each read asks for the version that was found when it was opened."""

    def __init__(self, bucket: str, key: str) -> None:
        head = _call("head_object", Bucket=bucket, Key=key)
        self._of = {"Bucket": bucket, "Key": key, "IfMatch": head["ETag"]}
        super().__init__(Facts(head["ContentLength"], _nanoseconds(head["LastModified"]), head["ETag"]))

    def _fill(self, view: memoryview) -> int:
        part = f"bytes={self._at}-{self._at + len(view) - 1}"
        try:
            data: bytes = sync(_store().loop, _body, {**self._of, "Range": part})
        except OSError as error:
            if error.errno == errno.EINVAL:  # the precondition failed: another version is there
                raise OriginalLost(CHANGED) from error
            raise
        view[: len(data)] = data
        return len(data)


def listed(prefix: Prefix) -> Iterator[list[tuple[str, Facts]]]:
    """Yield the keys below a prefix, in the order of their bytes, with what they are, a page at a time.

    Raises:
        OSError, or another exception of the store: it can't be listed.
    """
    more: dict[str, str] = {}
    while True:
        page = _call("list_objects_v2", Bucket=prefix.bucket, Prefix=prefix.prefix, **more)
        yield [
            (one["Key"], Facts(one["Size"], _nanoseconds(one["LastModified"]), one["ETag"]))
            for one in page.get("Contents", [])
        ]
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _call(method: str, **request: Any) -> Any:
    return _store().call_s3(method, **request)


async def _body(request: dict[str, Any]) -> bytes:
    answer = await _store()._call_s3("get_object", **request)
    try:
        data: bytes = await answer["Body"].read()
    finally:
        answer["Body"].close()
    return data


def _store() -> Any:
    return _opened(os.getpid())


@lru_cache(maxsize=1)
def _opened(_: int) -> Any:
    """Return the client of this process; it does not survive a fork."""
    try:
        # nothing is kept of listings: a file is opened as it is now
        return fsspec.filesystem("s3", use_listings_cache=False)
    except ImportError as error:
        raise StackError("Buckets can't be read without another package: install retllm-platform[s3].") from error
