"""Ending in order: a worker that is told to stop finishes its unit, or hands it back before it has to be gone.

The pool is Celery's ``solo``: the unit is done on the main thread, which a signal can't end without losing it. So the
worker takes no more work and goes on with what it has; short of ``stop_seconds`` a thread hands the unit back, its
attempt not counted, and ends the process. Nothing that the main thread still writes then is taken: its claim is gone.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import structlog
from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from retllm.errors import StaleClaim
from retllm.jobs import claim as claims
from retllm.jobs import work
from retllm.jobs.claim import Claim
from retllm.settings import get_settings
from retllm_workers.bench import get_bench

log = structlog.get_logger(__name__)

# the share of stop_seconds in which the unit may be finished; the rest is for handing it back
_FINISHING = 0.8

_TOLD = threading.Event()


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
def _listen(**_: Any) -> None:
    # begun now, since what a signal interrupts may hold the lock that starting a thread takes
    threading.Thread(target=_stop_when_told, name="stopping", daemon=True).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]  # celery has no types
def _tell(**_: Any) -> None:
    _TOLD.set()


def _stop_when_told() -> None:
    _TOLD.wait()
    seconds = _FINISHING * get_settings().stop_seconds
    log.info("worker.stopping", seconds=seconds)
    # a process whose unit is finished by then ends meanwhile, and this thread with it
    time.sleep(seconds)
    claim = work.present()
    if claim is not None:
        _hand_back(claim)
    # as the main thread would, could it end
    worker_shutdown.send(sender=None)
    os._exit(0)


def _hand_back(claim: Claim) -> None:
    bench = get_bench()
    with structlog.contextvars.bound_contextvars(unit_id=str(claim.unit_id), job_id=str(claim.job_id)):
        try:
            claims.release(bench.sessions, claim)
        except StaleClaim:
            log.info("unit.finished_at_last")
        except Exception as error:
            # nobody does it until the lease has run out
            log.warning("unit.not_handed_back", reason=claims.describe(error))
        else:
            log.warning("unit.handed_back")
            bench.announcer.announce([(claim.unit_id, claim.stage)])
