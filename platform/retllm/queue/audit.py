"""What must be true of all accepted work at any moment, asked of the database and the storage.

Nothing here trusts a worker's or a dispatcher's memory. Each rule is one question whose answers are violations; the
rules of the rows are in ``audit_rules`` and ``audit_tokens``, those of the files in ``audit_files``.
"""

from __future__ import annotations

import sqlalchemy as sa

from retllm.db.session import Sessions
from retllm.media.storage import Storage
from retllm.queue.audit_files import wrong_files
from retllm.queue.audit_rules import RULES
from retllm.queue.violations import Violation

# of one rule; more would not tell more
_SHOWN = 100


def violations(
    sessions: Sessions,
    storage: Storage | None = None,
    *,
    quiet: bool = False,
    overdue_seconds: float = 300,
    sample: int | None = None,
) -> list[Violation]:
    """Everything that is not as it must be; empty in a sound system. It reads only, and locks nothing.

    Args:
        storage: where the files are; None leaves them out.
        quiet: nothing is at work and nothing should be: every job must be over. Else only what is overdue counts.
        overdue_seconds: how long ago a lease may have run out on a system that is at work.
        sample: files of each kind that are read and compared by their hash; None reads all.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
        StackError: the storage can't be used.
    """
    found: list[Violation] = []
    given = {"quiet": quiet, "overdue": overdue_seconds, "most": _SHOWN}
    with sessions() as session:
        # every rule sees the same moment, however much goes on meanwhile
        session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
        for rule in RULES:
            rows = session.execute(sa.text(rule.statement), given)
            found += [Violation(rule.name, str(subject), rule.meaning, str(detail)) for subject, detail in rows]
    if storage is not None:
        with sessions() as session:
            found += wrong_files(session, storage, sample)
    return found
