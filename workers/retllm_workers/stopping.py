"""Graceful stop: the worker finishes its unit, or returns it before the time to stop is over.

With Celery's ``solo`` pool the unit runs on the main thread, and a signal handler can't end it without losing it. So
after SIGTERM or Ctrl-C the worker takes no more work and continues its unit. Shortly before ``stop_seconds`` are over,
a thread returns the unit without counting the attempt and ends the process. The main thread can't store results after
that, since its claim is gone. SIGQUIT or a second Ctrl-C returns the unit at once.
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
from retllm.queue.routing import Notification
from retllm.settings import get_settings
from retllm_workers.context import get_context

log = structlog.get_logger(__name__)

# share of stop_seconds to finish the unit; the rest is for returning it
_FINISH_SHARE = 0.8

# SimpleQueue.put is reentrant: a signal may interrupt the handler of another
_SIGNALS: queue.SimpleQueue[int] = queue.SimpleQueue()


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
def _listen(**_: Any) -> None:
    # started now: a signal may interrupt code that holds the lock for starting a thread
    threading.Thread(target=_stop_on_signal, name="stopping", daemon=True).start()
    # Celery's handlers would raise an error in the unit at SIGQUIT and the second Ctrl-C, which counts as a failure
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _handle)


def _handle(number: int, _: FrameType | None) -> None:
    state.should_stop = os.EX_OK
    _SIGNALS.put(number)


def _stop_on_signal() -> None:
    number = _SIGNALS.get()
    seconds = _FINISH_SHARE * get_settings().stop_seconds
    log.info("worker.stopping", seconds=seconds)
    if number != signal.SIGQUIT:
        # if the unit is finished before, the process ends and this thread with it
        _wait_for_second_signal(seconds)
    for claim in worker.current_claims():
        # one whose results are being stored now is waited for
        _return_unit(claim)
    # as the main thread does at a normal end
    worker_shutdown.send(sender=None)
    os._exit(os.EX_OK)


def _wait_for_second_signal(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            number = _SIGNALS.get(timeout=left)
        except queue.Empty:
            return
        # service managers may send SIGTERM twice; only another signal means "at once"
        if number != signal.SIGTERM:
            return


def _return_unit(claim: Claim) -> None:
    context = get_context()
    with structlog.contextvars.bound_contextvars(unit_id=str(claim.unit_id), job_id=str(claim.job_id)):
        try:
            claims.release(context.sessions, claim)
        except StaleClaim:
            log.info("unit.finished_at_last")
        except Exception as error:
            # other workers get the unit when its lease has run out
            log.warning("unit.not_handed_back", reason=claims.describe(error))
        else:
            ENDED.labels(claim.stage, "returned").inc()
            log.warning("unit.handed_back")
            context.notifier.notify([Notification(claim.unit_id, claim.stage, claim.scorer)])
