"""Tasks of the queue ``media``, which need no model."""

from __future__ import annotations

from uuid import UUID

from retllm.db.enums import Stage
from retllm.media_units import media_unit as do_unit
from retllm.queue.notifications import TASK_OF
from retllm.queue.worker import Finisher, run_unit
from retllm_workers.celery_app import app
from retllm_workers.context import get_context

QUEUES = frozenset({"media"})
# the items of one unit are inserted while the pictures of the next one are decoded
_FINISHER = Finisher()


@app.task(name=TASK_OF[Stage.MEDIA])  # type: ignore[untyped-decorator]  # celery has no types
def media_unit(unit_id: str) -> None:
    """Import files, make items of some files of an upload, or do a unit of another job that needs no embedder."""
    run_unit(get_context(), UUID(unit_id), do_unit, _FINISHER)
