"""Maintenance by dispatchers: prune, close abandoned uploads, merge counts, erase positions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import structlog

from retllm.db.counts import MERGE_SECONDS, merge
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.media import positions
from retllm.operations import workers
from retllm.operations.totals import Totals
from retllm.queue.dispatcher import MaintenanceTask
from retllm.queue.notifications import Notifier
from retllm.search import score_cache
from retllm.settings import Settings
from retllm.uploads.submit import close_idle

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prune:
    """Prunes the score cache and the table of workers."""

    sessions: Sessions
    settings: Settings
    seconds: float = 60.0

    def run(self) -> int:
        """Delete what exceeds the limits; return the number of deleted scores."""
        with transaction(self.sessions) as session:
            deleted = score_cache.prune(session, self.settings.score_cache_rows)
            workers.prune(session)
        if deleted:
            log.info("score_cache.pruned", rows=deleted)
        return deleted


@dataclass(frozen=True)
class FlushTotals:
    """Adds the counts of this process to the totals of all processes."""

    totals: Totals
    seconds: float = workers.BEAT_SECONDS

    def run(self) -> None:
        """Add the counts since the last run."""
        self.totals.flush()


@dataclass(frozen=True)
class CloseIdleUploads:
    """Closes uploads that were abandoned, so that what arrived is processed and indexed."""

    sessions: Sessions
    notifier: Notifier
    settings: Settings
    seconds: float = 10.0

    def run(self) -> None:
        """Close them, and notify workers."""
        idle = timedelta(seconds=self.settings.upload_idle_seconds)
        self.notifier.notify(close_idle(self.sessions, idle))


@dataclass(frozen=True)
class MergeCounts:
    """Merges the counts of items and vectors, so that few rows are read for each."""

    sessions: Sessions
    seconds: float = MERGE_SECONDS

    def run(self) -> int:
        """Merge them; return the number of merged rows."""
        return merge(self.sessions)


@dataclass(frozen=True)
class ErasePositions:
    """Erases what collections that keep no positions have of them."""

    sessions: Sessions
    seconds: float = 5.0

    def run(self) -> int:
        """Erase them, in transactions of bounded length; return of how many items."""
        erased = 0
        while some := run_transaction(self.sessions, positions.erase):
            erased += some
        if erased:
            log.info("positions.erased", items=erased)
        return erased


def maintenance_tasks(sessions: Sessions, notifier: Notifier, settings: Settings) -> list[MaintenanceTask]:
    """Return all maintenance tasks of a dispatcher."""
    return [
        Prune(sessions, settings),
        CloseIdleUploads(sessions, notifier, settings),
        MergeCounts(sessions),
        ErasePositions(sessions),
        FlushTotals(Totals(sessions)),
    ]
