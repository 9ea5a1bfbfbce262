"""Starts children stage by stage, restarts those that exit, and stops them in reverse order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from retllm.errors import StackError
from retllm.stack.child import Child, ProcessSpec, describe_status

log = structlog.get_logger(__name__)

QUICK_SECONDS = 10.0
"""A child that exits within this time crashed quickly."""
QUICK_CRASHES = 5
"""Number of consecutive quick crashes after which the stack fails."""
_MAX_WAIT = 30.0
_WATCH_SECONDS = 0.2


@dataclass
class _Watched:
    """A child and the history of its crashes."""

    child: Child
    quick: int = 0
    restart_at: float | None = None


class Supervisor:
    """The children of one stack.

    `on_change` is called with the current children after each start and end, `on_failure` once, from the watching
    thread, when a child crashes repeatedly. `first_wait` is the delay of the first restart in seconds; it doubles.
    """

    def __init__(
        self,
        on_change: Callable[[list[Child]], None],
        on_failure: Callable[[StackError], None],
        first_wait: float = 0.5,
    ) -> None:
        self._on_change = on_change
        self._on_failure = on_failure
        self._first_wait = first_wait
        self._watched: dict[str, _Watched] = {}
        self._stages = 0
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def children(self) -> dict[str, Child]:
        """The current children by name."""
        with self._lock:
            return {name: watched.child for name, watched in self._watched.items()}

    def interrupt(self) -> None:
        """Abort a start in progress; safe to call from a signal handler."""
        self._stopping.set()

    def hurry(self) -> None:
        """Stop without waiting for work in progress; safe to call from a signal handler."""
        self._hurry.set()

    def start_stage(self, specs: Sequence[ProcessSpec]) -> None:
        """Start `specs` together and wait until all are ready; raises StackError if one fails."""
        stage = self._stages
        self._stages += 1
        children = []
        for spec in specs:
            if self._stopping.is_set():
                raise StackError("The start was interrupted.")
            child = Child(spec, stage)
            children.append(child)
            with self._lock:
                self._watched[spec.name] = _Watched(child)
                self._on_change([watched.child for watched in self._watched.values()])
            log.info("started", process=spec.name, pid=child.pid)
        for child in children:
            child.wait_ready(self._stopping.is_set)
            log.info("ready", process=child.spec.name, seconds=round(child.age, 2))
            if child.spec.once:
                self._forget(child)

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._watched.pop(child.spec.name, None)
            self._on_change([watched.child for watched in self._watched.values()])

    def watch(self) -> None:
        """Start the thread that restarts children."""
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopping.wait(_WATCH_SECONDS):
            with self._lock:
                for watched in self._watched.values():
                    failure = self._check_child(watched)
                    if failure is not None:
                        self._on_failure(failure)
                        return

    def _check_child(self, watched: _Watched) -> StackError | None:
        """Restart the child if it has exited and its delay is over; return an error if it crashes repeatedly."""
        child = watched.child
        status = child.status
        if status is None:
            return None
        if watched.restart_at is None:
            child.stop(0)  # kills the rest of its group
            watched.quick = watched.quick + 1 if child.age < QUICK_SECONDS else 1
            if watched.quick >= QUICK_CRASHES:
                return child.failure(
                    f"{child.spec.name} was started {watched.quick} times and ended each time within "
                    f"{QUICK_SECONDS:g} seconds ({describe_status(status)})"
                )
            wait = min(_MAX_WAIT, self._first_wait * 2 ** (watched.quick - 1))
            watched.restart_at = time.monotonic() + wait
            log.warning("ended", process=child.spec.name, how=describe_status(status), restart_in=wait)
        elif time.monotonic() >= watched.restart_at:
            watched.child = Child(child.spec, child.stage)
            watched.restart_at = None
            self._on_change([other.child for other in self._watched.values()])
            log.info("restarted", process=child.spec.name, pid=watched.child.pid)
        return None

    def stop(self) -> None:
        """Stop all children, the last started stage first, and wait for them."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            for stage in sorted({watched.child.stage for watched in self._watched.values()}, reverse=True):
                self._stop_stage([w.child for w in self._watched.values() if w.child.stage == stage])

    def _stop_stage(self, children: list[Child]) -> None:
        for child in children:
            child.ask_to_stop()
        asked = time.monotonic()
        for child in children:
            deadline = asked + child.spec.stop_seconds
            while child.status is None and time.monotonic() < deadline and not self._hurry.is_set():
                time.sleep(0.02)
            # stage 0 is the database, which always gets its time, to write its data
            rest = max(0.0, deadline - time.monotonic()) if child.stage == 0 else 0
            clean = child.stop(rest)
            self._forget(child)
            log.info("stopped", process=child.spec.name, clean=clean)
