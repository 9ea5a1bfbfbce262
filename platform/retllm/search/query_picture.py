"""Load the picture of a query."""

from __future__ import annotations

import io
from contextlib import suppress

from PIL.Image import Image

from retllm.errors import MediaRejected, NotFound
from retllm.media import copies, pictures
from retllm.queue.worker import WorkerContext


def query_picture(context: WorkerContext, key: str, min_side: int = 0) -> Image:
    """Return the stored picture of a query, decoded to RGB as that of an item; ``min_side`` as there.

    Raises:
        MediaRejected: it can't be decoded.
    """
    if context.settings.model_pictures == "copy":
        # made when the query was asked; the same as what is made of the original
        with (
            suppress(MediaRejected, NotFound),
            context.storage.open(copies.key_beside(key, context.settings)) as copy,
        ):
            return pictures.load_stored(io.BytesIO(copy.read()), context.settings, min_side)
    with context.storage.open(key) as stream:
        return context.pictures.open_file(stream, min_side)
