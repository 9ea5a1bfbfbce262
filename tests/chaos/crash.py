"""Crashes on demand: a file in ``$CHAOS_ORDERS`` names a moment.

The first process to reach that moment deletes the file and does what it says: ``end`` (exit), ``stop`` (until a
SIGCONT), or ``slow`` (pause for some seconds). A moment is ``work`` (in the middle of a unit), ``receive`` (a file that
came is stored, and no row names it), ``<kind>-before`` a commit (everything is written) or ``<kind>-after`` it (no
process was notified yet).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from sqlalchemy import event, inspect
from sqlalchemy.orm import ORMExecuteState, Session

from retllm.db.enums import UnitState
from retllm.db.jobs import Unit

SLOW_SECONDS = 4.0
_KINDS = {
    UnitState.LEASED: "claim",
    UnitState.DONE: "complete",
    UnitState.READY: "give_up",
    UnitState.SPLIT: "give_up",
    UnitState.DEAD: "give_up",
}


def reach(moment: str) -> None:
    """Do what was ordered for this moment, if there is an order."""
    order = Path(os.environ["CHAOS_ORDERS"], moment)
    try:
        action = order.read_text("ascii")
        order.unlink()
    except FileNotFoundError:
        return
    if action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "slow":
        time.sleep(SLOW_SECONDS)
    else:
        os._exit(137)


def install(update: str) -> None:
    """Watch every commit of this process; ``update`` is the kind of its bulk updates, which load no units."""

    def note_statement(state: ORMExecuteState) -> None:
        if state.is_update:
            state.session.info.setdefault("chaos", update)
        elif state.is_insert and state.bind_mapper is inspect(Unit):
            state.session.info.setdefault("chaos", "submit")

    event.listen(Session, "do_orm_execute", note_statement)
    event.listen(Session, "after_flush", _note_kind)
    event.listen(Session, "before_commit", _before)
    event.listen(Session, "after_commit", _after)


def _note_kind(session: Session, _: object) -> None:
    for row in session.dirty:
        if isinstance(row, Unit) and inspect(row).attrs.state.history.has_changes():
            session.info["chaos"] = _KINDS.get(row.state, "")


def _before(session: Session) -> None:
    session.flush()
    kind = session.info.get("chaos")
    if kind:
        reach(f"{kind}-before")


def _after(session: Session) -> None:
    kind = session.info.pop("chaos", None)
    if kind:
        reach(f"{kind}-after")
