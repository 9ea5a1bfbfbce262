"""The handlers of all kinds of job."""

from __future__ import annotations

from collections.abc import Mapping

from retllm.db.enums import JobKind
from retllm.duplicates.handler import DUPLICATES_HANDLER
from retllm.indexing.handler import INDEX_HANDLER
from retllm.maps.handler import MAP_HANDLER
from retllm.ocr.handler import OCR_HANDLER
from retllm.queue import handlers
from retllm.queue.handlers import JobHandler
from retllm.search.handler import SEARCH_HANDLER
from retllm.uploads.handler import UPLOAD_HANDLER

HANDLERS: Mapping[JobKind, JobHandler] = {
    JobKind.UPLOAD: UPLOAD_HANDLER,
    JobKind.INDEX: INDEX_HANDLER,
    JobKind.SEARCH: SEARCH_HANDLER,
    JobKind.DUPLICATES: DUPLICATES_HANDLER,
    JobKind.MAP: MAP_HANDLER,
    JobKind.OCR: OCR_HANDLER,
}


def register_handlers() -> None:
    """Register the handlers of all kinds of job; call this once at the start of a process."""
    handlers.register(HANDLERS)
