"""What `retllm doctor` says of work that does not go on."""

from __future__ import annotations

from sqlalchemy.orm import Session

from retllm.cli.check_workers import Finding, asked
from retllm.operations import queues, stuck
from retllm.settings import Settings


def look_at_work(database_url: str, settings: Settings) -> list[Finding]:
    """Each thing that is stuck, with what to do about it; one sentence and no advice where all goes on."""

    def look(session: Session) -> list[Finding]:
        found = [(one.what, one.advice) for one in stuck.find(session, settings)]
        return found or [(_in_peace(session), "")]

    return asked(database_url, look)


def _in_peace(session: Session) -> str:
    depths = queues.depths(session)
    waiting, at_work = sum(one.waiting + one.later for one in depths), sum(one.at_work for one in depths)
    return f"Nothing is stuck: units at work {at_work:,}, waiting their turn {waiting:,}."
