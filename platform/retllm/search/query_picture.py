"""Load the picture of a query."""

from __future__ import annotations

from PIL.Image import Image

from retllm.queue.worker import WorkerContext


def query_picture(context: WorkerContext, key: str, min_side: int = 0) -> Image:
    """Return the stored picture of a query, decoded to RGB as that of an item; ``min_side`` as there.

    Raises:
        MediaRejected: it can't be decoded.
    """
    with context.storage.open(key) as stream:
        return context.pictures.open_file(stream, min_side)
