"""How long a unit waits for the server of its scorer: ``Unit.waits_until``, which is null for one that does not wait.

What counts is the time of its tries and of the waits between them. A try that is made late, because the queue was
paused or no worker was there, is late at no cost: only from ``run_after`` to ``waits_until`` patience is left.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit
from retllm.settings import Settings

# seconds; a unit whose server is away looks for it at least as often
_LONGEST_WAIT = 30.0


def is_over(session: Session, unit: Unit) -> bool:
    """Return whether the try of a leased unit has used up its patience; never at the first one."""
    return unit.waits_until is not None and _left(session, unit) < 0


def wait(session: Session, unit: Unit, seconds: float, settings: Settings) -> None:
    """Let a unit be tried again after a wait, which doubles each time and is no shorter than ``seconds``.

    The last try is at the end of its patience.
    """
    patience = settings.scorer_patience_seconds
    left = patience if unit.waits_until is None else _left(session, unit)
    doubled = settings.backoff_seconds + max(0.0, patience - left)
    seconds = max(min(doubled, _LONGEST_WAIT, max(0.0, left)), seconds)
    unit.run_after = _in(seconds)
    unit.waits_until = _in(max(seconds, left))
    session.flush()


def until(unit: type[Unit]) -> sa.ColumnElement[datetime | None]:
    """Return the column with the time at which a unit fails if its server stays away, and it is tried from now on."""
    late = sa.func.greatest(sa.func.now() - unit.run_after, sa.literal_column("interval '0'"))
    return sa.case((unit.state == UnitState.READY, unit.waits_until + late), else_=unit.waits_until)


def _left(session: Session, unit: Unit) -> float:
    """Return the seconds that are left at the end of the present try."""
    left = Unit.waits_until - Unit.run_after - (sa.func.clock_timestamp() - Unit.started_at)
    return float(session.execute(sa.select(sa.extract("epoch", left)).where(Unit.id == unit.id)).scalar_one())


def _in(seconds: float) -> Any:
    return sa.func.clock_timestamp() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
