"""Which queue a unit belongs to. This is the one module that knows the names of the queues (design: jobs).

A unit of the fine stage belongs to the queue of its search's scorer. The main scorer's queue also has the searches of
scorers that are no longer configured; its workers say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from retllm.db.enums import Stage
from retllm.db.jobs import Unit
from retllm.settings import Settings, public_name

# the coarse stage has its own queue, so that a search does not wait behind an index job
QUEUE_OF = {Stage.COARSE: "query", Stage.MEDIA: "media", Stage.EMBED: "embed", Stage.FINE: "score"}
"""The queue of each stage; of the fine stage, that of the main scorer."""
_STAGE_OF = {queue: stage for stage, queue in QUEUE_OF.items()}
_BEFORE_SCORER = "score:"


class Notification(NamedTuple):
    """A unit to notify workers of; ``scorer`` is that of its search, for the fine stage, or None for the main one."""

    unit_id: UUID
    stage: Stage
    scorer: str | None = None


def stage_of(queue: str) -> Stage:
    """Return the stage of the units in a queue."""
    return Stage.FINE if queue.startswith(_BEFORE_SCORER) else _STAGE_OF[queue]


def scorer_of(queue: str) -> str | None:
    """Return the public name of the scorer of a queue; None for the main one's and for those of other stages."""
    return queue.removeprefix(_BEFORE_SCORER) if queue.startswith(_BEFORE_SCORER) else None


def is_of_scorer(queue: str) -> bool:
    """Return whether a scorer serves a queue of that name."""
    return queue.startswith(_BEFORE_SCORER) or queue == QUEUE_OF[Stage.FINE]


@dataclass(frozen=True)
class Routing:
    """The queues of an installation.

    Attributes:
        extras: public names of the scorers beside the main one.
    """

    extras: tuple[str, ...] = ()

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of all queues."""
        return (*QUEUE_OF.values(), *(_BEFORE_SCORER + extra for extra in self.extras))

    def queue_of(self, stage: Stage, scorer: str | None = None) -> str:
        """Return the queue of a unit.

        Args:
            stage: of the unit.
            scorer: that of its search, which counts for the fine stage.
        """
        extra = stage is Stage.FINE and scorer in self.extras
        return f"{_BEFORE_SCORER}{scorer}" if extra else QUEUE_OF[stage]

    def within(self, queue: str) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the conditions for units in a queue."""
        stage, scorer = stage_of(queue), scorer_of(queue)
        in_stage = Unit.stage == stage
        if scorer is not None:
            return in_stage, Unit.scorer == scorer
        if stage is Stage.FINE and self.extras:
            return in_stage, Unit.scorer.not_in(self.extras)
        return (in_stage,)


ONE_SCORER = Routing()
"""The queues of an installation without extra scorers."""


def routing_of(settings: Settings) -> Routing:
    """Return the queues of an installation with these settings."""
    return Routing(tuple(extra.name for extra in settings.extra_scorers))


def served_queue(settings: Settings, stage: Stage) -> str:
    """Return the queue of a stage that a worker with these settings serves, see :meth:`Settings.serving`."""
    return routing_of(settings).queue_of(stage, public_name(settings.scorer_name))


def notifications(units: Sequence[Unit]) -> list[Notification]:
    """Return the notifications of units."""
    return [Notification(unit.id, unit.stage, unit.scorer or None) for unit in units]
