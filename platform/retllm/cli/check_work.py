"""The check of `retllm doctor` for stuck work."""

from __future__ import annotations

from sqlalchemy.orm import Session

from retllm.cli.check_workers import Finding, query_database
from retllm.operations import queues, stuck
from retllm.queue.routing import routing_of
from retllm.settings import Settings


def inspect_work(database_url: str, settings: Settings) -> list[Finding]:
    """Return each problem with advice; one sentence without advice if nothing is stuck."""

    def query(session: Session) -> list[Finding]:
        found = [(problem.what, problem.advice) for problem in stuck.find(session, settings)]
        return found or [(_nothing_stuck(session, settings), "")]

    return query_database(database_url, query)


def _nothing_stuck(session: Session, settings: Settings) -> str:
    depths = queues.depths(session, routing_of(settings))
    ready, leased = sum(queue.waiting + queue.later for queue in depths), sum(queue.at_work for queue in depths)
    return f"Nothing is stuck; ready units: {ready:,}, leased units: {leased:,}."
