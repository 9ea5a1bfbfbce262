"""A server of the S3 protocol on loopback, found by the environment variables that people set."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import s3fs
from moto.server import ThreadedMotoServer

Buckets = Callable[[], str]
"""Makes an empty bucket and returns its name."""


@contextmanager
def object_store() -> Iterator[Buckets]:
    """Run a server; processes that are started meanwhile use it too."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # file systems are kept with the addresses that they were made for
        s3fs.S3FileSystem.clear_instance_cache()
        yield _bucket
    server.stop()


def _bucket() -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return name


def stored(bucket: str) -> list[str]:
    """Return the keys of all objects in a bucket."""
    fs = s3fs.S3FileSystem()
    fs.invalidate_cache()
    return [str(path) for path in fs.find(bucket)]
