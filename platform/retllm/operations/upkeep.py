"""What dispatchers do now and then: bound the score cache, forget workers long gone, add up counts of processes."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from retllm.db.session import Sessions, transaction
from retllm.operations import workers
from retllm.operations.totals import Totals
from retllm.queue.dispatcher import Upkeep
from retllm.search import score_cache
from retllm.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pruning:
    """Keeps what is kept only for a while within its bounds."""

    sessions: Sessions
    settings: Settings
    seconds: float = 60.0

    def run(self) -> int:
        """Remove what is too much; returns how many cached scores went."""
        with transaction(self.sessions) as session:
            gone = score_cache.prune(session, self.settings.score_cache_rows)
            workers.prune(session)
        if gone:
            log.info("score_cache.pruned", rows=gone)
        return gone


@dataclass(frozen=True)
class Counting:
    """Adds what this process counted to the totals of all processes."""

    totals: Totals
    seconds: float = workers.BEAT_SECONDS

    def run(self) -> None:
        """Add what was counted since the last time."""
        self.totals.tell()


def upkeep(sessions: Sessions, settings: Settings) -> list[Upkeep]:
    """All of it, for one dispatcher."""
    return [Pruning(sessions, settings), Counting(Totals(sessions))]
