"""Sudden ends at commit boundaries, ordered from outside: a file in ``$CHAOS_ORDERS`` names a moment, and the first
process that comes to it takes the file away and ends on the spot.

A moment is ``<what>-before`` (all is written, nothing committed) or ``<what>-after`` (committed, nobody told yet).
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

from retllm.db.enums import UnitState
from retllm.db.tables import Job, Unit

MOMENTS = ("claim", "complete", "give_up", "submit")


def install() -> None:
    """Watch every commit of this process."""
    folder = Path(os.environ["CHAOS_ORDERS"])
    event.listen(Session, "after_flush", _note)
    event.listen(Session, "before_commit", lambda session: _end(folder, session, "before"))
    event.listen(Session, "after_commit", lambda session: _end(folder, session, "after"))


def _note(session: Session, _: object) -> None:
    if any(isinstance(row, Unit) for row in session.new) and any(
        isinstance(row, Job) for row in session.identity_map.values()
    ):
        session.info.setdefault("chaos", "submit")
    for row in session.dirty:
        if isinstance(row, Unit) and inspect(row).attrs.state.history.has_changes():
            session.info["chaos"] = _DEEDS.get(row.state, "")


_DEEDS = {
    UnitState.LEASED: "claim",
    UnitState.DONE: "complete",
    UnitState.READY: "give_up",
    UnitState.SPLIT: "give_up",
    UnitState.DEAD: "give_up",
}


def _end(folder: Path, session: Session, when: str) -> None:
    if when == "before":
        session.flush()
    deed = session.info.get("chaos")
    if when == "after":
        session.info.pop("chaos", None)
    if not deed:
        return
    try:
        (folder / f"{deed}-{when}").unlink()
    except FileNotFoundError:
        return
    os._exit(137)
