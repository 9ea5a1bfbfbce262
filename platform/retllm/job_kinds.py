"""Every kind of job with its handler."""

from __future__ import annotations

from collections.abc import Mapping

from retllm.db.enums import JobKind
from retllm.indexing.handler import INDEX_HANDLER
from retllm.queue import handlers
from retllm.queue.handlers import JobHandler
from retllm.search.handler import SEARCH_HANDLER

HANDLERS: Mapping[JobKind, JobHandler] = {
    JobKind.INDEX: INDEX_HANDLER,
    JobKind.SEARCH: SEARCH_HANDLER,
}


def register_handlers() -> None:
    """Let this process change jobs of every kind; whoever starts one calls it once."""
    handlers.register(HANDLERS)
