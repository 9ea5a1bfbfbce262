"""Load the picture of a query."""

from __future__ import annotations

from PIL.Image import Image

from retllm.media.pictures import load_picture
from retllm.queue.worker import WorkerContext


def query_picture(context: WorkerContext, key: str, min_side: int = 0) -> Image:
    """Return the stored picture of a query, decoded to RGB; for ``min_side`` see :func:`load_picture`.

    Raises:
        MediaRejected: it can't be decoded.
    """
    with context.storage.open(key) as stream:
        return load_picture(stream, context.settings, min_side)
