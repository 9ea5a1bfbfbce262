"""Ending in order: a worker that is told to stop finishes its unit, or hands it back before it has to be gone.

The pool is Celery's ``solo``: the unit is done on the main thread, which a signal can't end without losing it. So the
worker takes no more work and goes on with what it has; short of ``stop_seconds`` a thread hands the unit back, its
attempt not counted, and ends the process. Nothing that the main thread still writes then is taken: its claim is gone.
SIGTERM and Ctrl-C ask for that; SIGQUIT, or Ctrl-C once more, has the unit handed back at once.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from types import FrameType
from typing import Any

import structlog
from celery.signals import worker_ready, worker_shutdown
from celery.worker import state

from retllm.errors import StaleClaim
from retllm.metrics import ENDED
from retllm.queue import claim as claims
from retllm.queue import worker
from retllm.queue.claim import Claim
from retllm.settings import get_settings
from retllm_workers.context import get_context

log = structlog.get_logger(__name__)

# the share of stop_seconds in which the unit may be finished; the rest is for handing it back
_FINISHING = 0.8

# one signal may come while another is dealt with, which of all queues only this one bears
_TOLD: queue.SimpleQueue[int] = queue.SimpleQueue()


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
def _listen(**_: Any) -> None:
    # begun now, since what a signal interrupts may hold the lock that starting a thread takes
    threading.Thread(target=_stop_when_told, name="stopping", daemon=True).start()
    # Celery's own would raise an error within the unit at SIGQUIT and at the second Ctrl-C, which counts as a failure
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _tell)


def _tell(number: int, _: FrameType | None) -> None:
    state.should_stop = os.EX_OK
    _TOLD.put(number)


def _stop_when_told() -> None:
    number = _TOLD.get()
    seconds = _FINISHING * get_settings().stop_seconds
    log.info("worker.stopping", seconds=seconds)
    if number != signal.SIGQUIT:
        # a process whose unit is finished by then ends meanwhile, and this thread with it
        _wait_unless_hurried(seconds)
    claim = worker.present()
    if claim is not None:
        _hand_back(claim)
    # as the main thread would, could it end
    worker_shutdown.send(sender=None)
    os._exit(os.EX_OK)


def _wait_unless_hurried(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            number = _TOLD.get(timeout=left)
        except queue.Empty:
            return
        # whoever stops services may send SIGTERM twice, and means nothing by it
        if number != signal.SIGTERM:
            return


def _hand_back(claim: Claim) -> None:
    bench = get_context()
    with structlog.contextvars.bound_contextvars(unit_id=str(claim.unit_id), job_id=str(claim.job_id)):
        try:
            claims.release(bench.sessions, claim)
        except StaleClaim:
            log.info("unit.finished_at_last")
        except Exception as error:
            # nobody does it until the lease has run out
            log.warning("unit.not_handed_back", reason=claims.describe(error))
        else:
            ENDED.labels(claim.stage, "returned").inc()
            log.warning("unit.handed_back")
            bench.notifier.notify([(claim.unit_id, claim.stage)])
