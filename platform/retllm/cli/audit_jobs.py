"""The check of ``retllm doctor --audit``: no accepted work is lost or counted twice."""

from __future__ import annotations

from collections import Counter

from sqlalchemy.exc import SQLAlchemyError

from retllm.cli.check import Check, failed
from retllm.cli.database import database_url
from retllm.errors import RetllmError
from retllm.settings import Settings

_NAME = "jobs"
# items and searches whose pictures are read and hashed
_SAMPLE = 200
# leases after which a live dispatcher has surely taken the unit back
_LEASES = 5


def audit_jobs(settings: Settings) -> list[Check]:
    """Return one check that passes, or one for each broken rule. Read-only; safe on a running system."""
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
        return [Check(_NAME, "failed", f"The jobs can't be read ({reason}).", "Start the database and migrate it.")]
    except RetllmError as error:
        return [failed(_NAME, error)]
    if not found:
        return [Check(_NAME, "ok", "No accepted work is lost or counted twice.")]
    first = {violation.rule: violation for violation in reversed(found)}
    counts = Counter(violation.rule for violation in found)
    return [
        Check(_NAME, "failed", f"{violation} ({counts[rule]:,} found).", "Keep the logs and report this error.")
        for rule, violation in sorted(first.items())
    ]
