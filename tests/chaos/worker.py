"""The Celery worker of the tests: the real job core, queues and connections, with fast stand-in models."""

from __future__ import annotations

import dataclasses
from typing import Any, BinaryIO
from uuid import UUID

from celery.signals import setup_logging
from celery.worker import state
from tests.chaos import crash, large
from tests.chaos.models import Encoder, Scorer, pause

from retllm import logs
from retllm.db.enums import Stage
from retllm.indexing import worker as indexing
from retllm.media.storage import Storage
from retllm.queue.notifications import TASK_OF, celery_app
from retllm.queue.routing import Notification
from retllm.queue.worker import Finisher, LastStep, LeasedUnit, WorkerContext, run_unit, run_units
from retllm.search import coarse_worker
from retllm.search.fine_worker import FineUnits
from retllm.settings import get_settings
from retllm.uploads import worker as uploads
from retllm_workers.context import get_context

app = celery_app(get_settings().redis_url)
app.set_default()
app.conf.imports = ("retllm_workers.stopping",)
crash.install("renew")
large.install()
_ENCODER, _SCORER, _FINISHER = Encoder(), Scorer(), Finisher()
_UNITS = FineUnits(lambda: _SCORER, lambda: state.should_stop is not None)


@setup_logging.connect
def _setup_logging(**_: Any) -> None:
    logs.configure(get_settings().log_level)


@app.task(name=TASK_OF[Stage.EMBED])
def embed_unit(unit_id: str) -> None:
    run_unit(
        get_context(),
        UUID(unit_id),
        lambda context, held: indexing.embed_unit(context, held, lambda _: _ENCODER),
        _FINISHER,
    )


@app.task(name=TASK_OF[Stage.COARSE])
def coarse_unit(unit_id: str) -> None:
    run_unit(
        get_context(), UUID(unit_id), lambda context, held: coarse_worker.coarse_unit(context, held, lambda _: _ENCODER)
    )


@app.task(name=TASK_OF[Stage.FINE])
def fine_unit(unit_id: str) -> None:
    run_units(
        get_context(),
        UUID(unit_id),
        _UNITS,
        items=_SCORER.pairs_at_once,
        finisher=_FINISHER,
        following=_UNITS.following,
    )


class _Interruptible(Storage):
    """A storage whose worker may crash after each stored file."""

    __slots__ = ()

    def put(self, key: str, file: BinaryIO) -> int:
        count = Storage.put(self, key, file)
        crash.reach("work")
        return count

    def copy(self, source: str, key: str) -> None:
        Storage.copy(self, source, key)
        crash.reach("work")


def _media_unit(context: WorkerContext, held: LeasedUnit) -> list[Notification] | LastStep:
    pause()
    return uploads.media_unit(dataclasses.replace(context, storage=_Interruptible(context.storage.url)), held)


@app.task(name=TASK_OF[Stage.MEDIA])
def media_unit(unit_id: str) -> None:
    run_unit(get_context(), UUID(unit_id), _media_unit, _FINISHER)
