"""Sudden ends on order: a file in ``$CHAOS_ORDERS`` names a moment, and the first process that comes to it takes the
file away and does there what it says: ``end``, ``stop`` (until somebody lets it go on), or ``slow`` (some seconds).

A moment is ``work`` (in the middle of a unit), or ``<what>-before`` a commit (all is written) or ``<what>-after`` it
(nobody was told yet).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from sqlalchemy import event, inspect
from sqlalchemy.orm import ORMExecuteState, Session

from retllm.db.enums import UnitState
from retllm.db.tables import Job, Unit

SLOW_SECONDS = 4.0
_DEEDS = {
    UnitState.LEASED: "claim",
    UnitState.DONE: "complete",
    UnitState.READY: "give_up",
    UnitState.SPLIT: "give_up",
    UnitState.DEAD: "give_up",
}


def come_to(moment: str) -> None:
    """Do what was ordered for this moment, if anything was."""
    order = Path(os.environ["CHAOS_ORDERS"], moment)
    try:
        how = order.read_text("ascii")
        order.unlink()
    except FileNotFoundError:
        return
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "slow":
        time.sleep(SLOW_SECONDS)
    else:
        os._exit(137)


def install(update: str) -> None:
    """Watch every commit of this process; ``update`` names what it does to units without loading them."""

    def note_update(state: ORMExecuteState) -> None:
        if state.is_update:
            state.session.info.setdefault("chaos", update)

    event.listen(Session, "do_orm_execute", note_update)
    event.listen(Session, "after_flush", _note)
    event.listen(Session, "before_commit", _before)
    event.listen(Session, "after_commit", _after)


def _note(session: Session, _: object) -> None:
    jobs = any(isinstance(row, Job) for row in session.identity_map.values())
    if jobs and any(isinstance(row, Unit) for row in session.new):
        session.info.setdefault("chaos", "submit")
    for row in session.dirty:
        if isinstance(row, Unit) and inspect(row).attrs.state.history.has_changes():
            session.info["chaos"] = _DEEDS.get(row.state, "")


def _before(session: Session) -> None:
    session.flush()
    deed = session.info.get("chaos")
    if deed:
        come_to(f"{deed}-before")


def _after(session: Session) -> None:
    deed = session.info.pop("chaos", None)
    if deed:
        come_to(f"{deed}-after")
