"""Checks of the invariants of accepted work, read from the database and the storage only.

Each rule is a query that returns its violations: ``audit_rules`` and ``audit_tokens`` have the rules for rows,
``audit_files`` those for files.
"""

from __future__ import annotations

import sqlalchemy as sa

from retllm.db.session import Sessions
from retllm.media.storage import Storage
from retllm.queue.audit_files import wrong_files
from retllm.queue.audit_rules import RULES
from retllm.queue.violations import Violation

# maximum number of violations of one rule
_LIMIT = 100


def violations(
    sessions: Sessions,
    storage: Storage | None = None,
    *,
    quiet: bool = False,
    overdue_seconds: float = 300,
    sample: int | None = None,
) -> list[Violation]:
    """Return all violations; empty in a consistent system. Read-only, takes no locks.

    Args:
        storage: the storage to check; None skips the files.
        quiet: the system is idle, so every job must be over. Otherwise only overdue leases count.
        overdue_seconds: how long ago a lease may have expired on a running system.
        sample: number of items and of searches whose files are read and hashed; None checks all.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
        StackError: the storage can't be used.
    """
    found: list[Violation] = []
    parameters = {"quiet": quiet, "overdue": overdue_seconds, "limit": _LIMIT}
    with sessions() as session:
        # all rules see the same snapshot
        session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
        for rule in RULES:
            rows = session.execute(sa.text(rule.statement), parameters)
            found += [Violation(rule.name, str(subject), rule.meaning, str(detail)) for subject, detail in rows]
    if storage is not None:
        with sessions() as session:
            found += wrong_files(session, storage, sample)
    return found
