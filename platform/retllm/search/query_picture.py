"""The picture of a query."""

from __future__ import annotations

from PIL.Image import Image

from retllm.media.pictures import load_picture
from retllm.queue.worker import WorkerContext


def query_picture(bench: WorkerContext, key: str, least: int = 0) -> Image:
    """The stored picture of a query, decoded to RGB; ``least`` as :func:`load_picture` has it.

    Raises:
        MediaRejected: it can't be decoded.
    """
    with bench.storage.open(key) as stream:
        return load_picture(stream, bench.settings, least)
