"""The pictures of the fine stage: opened when the scorer asks for them, or prepared ahead in threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from PIL.Image import Image

from retllm.db.searches import Search
from retllm.db.tables import Item
from retllm.errors import MediaRejected, NotFound, Obsolete, RetllmError, StorageUnavailable, TooLarge
from retllm.fine import Content, Picture
from retllm.fine.content import PreparedPicture
from retllm.fine.interface import FineScorer
from retllm.media.parallel import InParallel, PixelBudget, Result
from retllm.queue.worker import WorkerContext
from retllm.search.query_picture import query_picture


class PicturesAhead:
    """Reads, decodes and preprocesses pictures of items in threads, before the scorer asks for them.

    What is decoded, and what is prepared and not asked for yet, is within a budget; a larger picture is alone.

    Args:
        context: of the worker.
        scorer: which prepares them.
        items: in the order in which they are scored; those of which the scorer keeps something are left out.
        budget: of this worker.
    """

    def __init__(self, context: WorkerContext, scorer: FineScorer, items: Sequence[Item], budget: PixelBudget) -> None:
        self._context, self._least = context, scorer.least_pixels
        pictures = context.pictures
        found = {pictures.key(item): item for item in items if item.picture_key}
        left = [(picture, item) for item in found.values() if scorer.prepares(picture := self._picture(item))]
        self._waiting = [pictures.key(item) for _, item in left]
        self._results: dict[str, Result[PreparedPicture | None]] = {}
        self._pipeline = InParallel(
            left,
            lambda pair: scorer.prepare(pair[0]),
            lambda pair: pictures.decoded_bytes(pair[1], self._least_side(pair[1])),
            threads=context.settings.decoders_at_once,
            budget=budget,
            ahead=len(left),
            kept_of=lambda prepared: prepared.nbytes if prepared else 0,
        )

    def content(self, item: Item) -> Content:
        """Return the item as a candidate of the scorer: its picture, its text, or both."""
        return Content(image=self._picture(item) if item.picture_key else None, text=item.text)

    def close(self) -> None:
        """End the threads; pictures that were not taken are opened when the scorer asks for them."""
        self._waiting.clear()
        self._results.clear()
        self._pipeline.close()

    def _picture(self, item: Item) -> Picture:
        pictures = self._context.pictures
        # the content hash: the scorer can use its cached state in other searches without opening the picture
        key = pictures.key(item)
        opener = partial(_open, pictures.open, item, self._least_side(item))
        return Picture(opener, key, partial(self._take, key))

    def _take(self, key: str) -> PreparedPicture | None:
        """Return a prepared picture, once; wait for it if it is in work. None: it is to be opened now.

        Raises:
            What preparing it raised.
        """
        while key not in self._results and key in self._waiting:
            self._results[self._waiting.pop(0)] = next(self._pipeline)
        result = self._results.pop(key, None)
        if result is None or result.error is None:
            return result.value if result else None
        if isinstance(result.error, RetllmError) and not result.error.retryable:
            # it would be so again
            self._results[key] = result
        raise result.error

    def _least_side(self, item: Item) -> int:
        """Return the shorter side of the item's picture where it has the pixels that the scorer needs; 0 if unknown."""
        area = (item.width or 0) * (item.height or 0)
        if not self._least or not area:
            return 0
        return math.ceil(min(item.width or 0, item.height or 0) * min(1.0, math.sqrt(self._least / area)))


def query_content(context: WorkerContext, search: Search) -> Content:
    """Return the query of a search; its picture is opened when the scorer asks for it.

    Opening raises Obsolete if the picture was decoded when the search was submitted, and can't be now (no candidate is
    at fault), and StorageUnavailable if it can't be read now.
    """
    key = search.query_picture_key
    # a key of its own: it is decoded in full, a JPEG of an item as small as the scorer allows
    picture = Picture(partial(_open_query, context, key), f"{search.query_picture_sha256}-query") if key else None
    return Content(image=picture, text=search.query_text)


def _open_query(context: WorkerContext, key: str) -> Image:
    try:
        return _open(query_picture, context, key)
    except (MediaRejected, NotFound, TooLarge) as error:
        raise Obsolete(f"The picture of the query can't be used any more: {error.message} Search again.") from error


def _open(open_: Callable[..., Image], *arguments: object) -> Image:
    """Open a picture; the scorer calls this when it needs the pixels.

    Raises:
        MediaRejected: the picture can't be decoded; a retry does not help.
        StorageUnavailable: the picture can't be read now; the scorer would take a plain OSError for a bad picture.
    """
    try:
        return open_(*arguments)
    except OSError as error:
        raise StorageUnavailable(f"A picture can't be read from the storage: {error}") from error
