"""What ``retllm doctor --audit`` asks: is everything that was accepted there, and is it counted once."""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from retllm.cli.checks import Check, failed
from retllm.cli.database import database_url
from retllm.errors import RetllmError
from retllm.settings import Settings

_NAME = "jobs"
# pictures of each kind that are read and compared by their hash
_SAMPLE = 200
# longer than any pause of a dispatcher that is alive
_LEASES = 5


def audit_jobs(settings: Settings) -> list[Check]:
    """One check that passes, or one for each rule that is broken; it reads only, and may run while all is at work."""
    from retllm.db.session import make_sessions
    from retllm.media.storage import get_storage
    from retllm.queue.audit import violations

    try:
        sessions = make_sessions(database_url(settings), pool_size=1)
        try:
            overdue = _LEASES * settings.lease_seconds
            found = violations(sessions, get_storage(settings), overdue_seconds=overdue, sample=_SAMPLE)
        finally:
            sessions.kw["bind"].dispose()
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        return [
            Check(_NAME, "failed", f"The jobs can't be looked at ({reason}).", "Start the database and migrate it.")
        ]
    except RetllmError as error:
        return [failed(_NAME, error)]
    if not found:
        return [Check(_NAME, "ok", "All accepted work is there, and counted once.")]
    rules = {one.rule: one for one in reversed(found)}
    counts = {rule: sum(one.rule == rule for one in found) for rule in rules}
    return [
        Check(_NAME, "failed", f"{one} ({counts[rule]:,} found).", "Keep the logs, and report it.")
        for rule, one in sorted(rules.items())
    ]
