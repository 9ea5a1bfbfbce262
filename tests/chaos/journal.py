"""A journal that the database itself keeps of every step of every unit, job and result, by triggers.

It holds what a transaction did and when, whoever did it, so that "twice" and "by whose right" can be answered from
facts: the rows alone show only how it ended.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from retllm.db.session import Sessions, transaction
from retllm.queue.violations import Violation

INSTALL = """
CREATE TABLE journal (
    id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tx xid8 NOT NULL DEFAULT pg_current_xact_id(), what text NOT NULL, job uuid, key text NOT NULL,
    before text, after text, token uuid, worker text, attempt int
);
CREATE INDEX ON journal (tx);
CREATE INDEX ON journal (what, key);

CREATE FUNCTION journal_unit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO journal (what, job, key, after) VALUES ('unit', NEW.job_id, NEW.id, NEW.state);
    ELSIF OLD.state <> NEW.state THEN
        INSERT INTO journal (what, job, key, before, after, token, worker, attempt)
        VALUES ('unit', NEW.job_id, NEW.id, OLD.state, NEW.state, NEW.token, NEW.worker, NEW.attempt);
    END IF;
    -- results may be flushed between the two, all within the transaction that the token allows
    IF TG_OP = 'UPDATE' AND OLD.token IS NOT NULL AND NEW.token IS NULL THEN
        INSERT INTO journal (what, job, key, token) VALUES ('let go', NEW.job_id, NEW.id, OLD.token);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON units FOR EACH ROW EXECUTE FUNCTION journal_unit();

CREATE FUNCTION journal_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO journal (what, job, key, after) VALUES ('job', NEW.id, NEW.id, NEW.state);
    ELSIF OLD.state <> NEW.state THEN
        INSERT INTO journal (what, job, key, before, after) VALUES ('job', NEW.id, NEW.id, OLD.state, NEW.state);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION journal_job();

CREATE FUNCTION journal_effect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO journal (what, key, before, after, job) VALUES (
        TG_TABLE_NAME, NEW.item_id, TG_OP, NULL,
        CASE WHEN TG_TABLE_NAME = 'embeddings' THEN NULL ELSE (to_jsonb(NEW)->>'search_id')::uuid END);
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE OF vector, item_version ON embeddings
    FOR EACH ROW EXECUTE FUNCTION journal_effect();
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON scores FOR EACH ROW EXECUTE FUNCTION journal_effect();
CREATE TRIGGER journal AFTER INSERT ON candidates FOR EACH ROW EXECUTE FUNCTION journal_effect();
"""

_EFFECTS = "('embeddings', 'scores', 'candidates')"
_COMMITS = "(SELECT * FROM journal WHERE what = 'unit' AND before = 'leased' AND after = 'done')"

# each gives pairs (subject, detail)
_RULES = {
    "effects come with the end of a unit that was held by a token": f"""
        SELECT e.what || ' ' || e.key, 'transaction ' || e.tx FROM journal e WHERE e.what IN {_EFFECTS}
        AND NOT EXISTS (SELECT FROM {_COMMITS} c JOIN journal g ON g.tx = c.tx AND g.key = c.key AND g.what = 'let go'
            JOIN journal t ON t.what = 'unit' AND t.after = 'leased' AND t.key = c.key AND t.token = g.token
            WHERE c.tx = e.tx)""",
    "a unit is done once": """
        SELECT key, count(*) || ' times' FROM journal WHERE what = 'unit' AND after = 'done'
        GROUP BY key HAVING count(*) > 1""",
    "nothing follows the end of a unit but that somebody starts it again": """
        SELECT key, before || ' to ' || after FROM journal WHERE what = 'unit' AND (before IN ('done', 'split')
            OR (before IN ('dead', 'cancelled') AND after <> 'ready'))""",
    "a token holds a unit once": """
        SELECT key, token || ', ' || count(*) FROM journal WHERE what = 'unit' AND after = 'leased'
        GROUP BY key, token HAVING count(*) > 1""",
    "a unit is given to nobody while somebody holds it": """
        SELECT key, coalesce(before, '') || ' to leased' FROM journal
        WHERE what = 'unit' AND after = 'leased' AND before <> 'ready'""",
    "a job ends once, and again only after it was started again": """
        SELECT key, count(*) FILTER (WHERE after IN ('succeeded', 'partial', 'failed', 'cancelled')) || ' ends, '
            || count(*) FILTER (WHERE before IN ('succeeded', 'partial', 'failed', 'cancelled')) || ' new starts'
        FROM journal WHERE what = 'job' GROUP BY key
        HAVING count(*) FILTER (WHERE after IN ('succeeded', 'partial', 'failed', 'cancelled'))
             > count(*) FILTER (WHERE before IN ('succeeded', 'partial', 'failed', 'cancelled')) + 1
            OR count(*) FILTER (WHERE before = 'succeeded') > 0""",
    "a result is written once for each job": f"""
        SELECT e.what || ' ' || e.key, 'job ' || c.job || ', ' || count(DISTINCT e.tx) || ' times'
        FROM journal e JOIN {_COMMITS} c ON c.tx = e.tx
        WHERE e.what IN {_EFFECTS} AND NOT (e.what = 'scores' AND e.before = 'UPDATE')
        GROUP BY e.what, e.key, c.job HAVING count(DISTINCT e.tx) > 1""",
}


@dataclass(frozen=True)
class BulkResult:
    """What happened between two moments: units given back after a loss or failure, and units done."""

    retried: int
    done: int
    dead: int
    jobs: int


@dataclass(frozen=True)
class Blow:
    """A moment of a fault, in seconds since 1970: the units that were held then, and how many were waiting.

    They were looked up between ``at`` and ``seen``.
    """

    at: float
    seen: float = 0.0
    held: tuple[UUID, ...] = ()
    waiting: int = 0


class Journal:
    """The journal of one database."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def install(self) -> None:
        """Begin to keep it."""
        with transaction(self._sessions) as session:
            session.connection().exec_driver_sql(INSTALL)

    def mark(self) -> int:
        """The present end of the journal."""
        with self._sessions() as session:
            return int(session.scalar(sa.text("SELECT coalesce(max(id), 0) FROM journal")) or 0)

    def tally(self, since: int) -> BulkResult:
        """What happened since a mark."""
        query = "SELECT what, before, after, count(*) FROM journal WHERE id > :since GROUP BY what, before, after"
        with self._sessions() as session:
            rows = session.execute(sa.text(query), {"since": since}).all()
        counts: Counter[tuple[Any, ...]] = Counter({(what, before, after): n for what, before, after, n in rows})
        lost = counts["unit", "leased", "ready"] + counts["unit", "leased", "split"] + counts["unit", "leased", "dead"]
        dead = counts["unit", "leased", "dead"]
        return BulkResult(lost, counts["unit", "leased", "done"], dead, counts["job", None, "queued"])

    def recovery_seconds(self, blow: Blow) -> float | None:
        """Seconds until all that was held at a blow was let go of and work went on; None: it never was, or did not."""
        query = """
            SELECT count(*) FILTER (WHERE let_go IS NOT NULL), extract(epoch FROM max(let_go)) FROM (
                SELECT (SELECT min(g.at) FROM journal g
                        WHERE g.what = 'unit' AND g.key = held.key AND g.before = 'leased' AND g.id > coalesce(
                            (SELECT max(t.id) FROM journal t WHERE t.what = 'unit' AND t.key = held.key
                             AND t.after = 'leased' AND t.at <= to_timestamp(:seen)), 0)) AS let_go
                FROM unnest(cast(:held AS text[])) AS held(key)) AS each_one"""
        going = """
            SELECT extract(epoch FROM min(at)) FROM journal
            WHERE what = 'unit' AND after = 'leased' AND at > to_timestamp(:at)"""
        given = {"held": [str(unit) for unit in blow.held], "seen": blow.seen}
        with self._sessions() as session:
            count, last = session.execute(sa.text(query), given).one()
            first = session.scalar(sa.text(going), {"at": blow.at}) if blow.waiting else blow.at
        if count < len(set(blow.held)) or first is None:
            return None
        return max(0.0, float(last or blow.at) - blow.at, float(first) - blow.at)

    def takers(self, at: float) -> set[str]:
        """The process ids of those that took a unit since ``at``."""
        query = (
            "SELECT DISTINCT worker FROM journal WHERE what = 'unit' AND after = 'leased' AND at > to_timestamp(:at)"
        )
        with self._sessions() as session:
            return {str(worker).rpartition(":")[2] for worker in session.scalars(sa.text(query), {"at": at})}

    def doubled(self) -> list[Violation]:
        """Everything that happened twice, or without right."""
        found = []
        with self._sessions() as session:
            for meaning, query in _RULES.items():
                for subject, detail in session.execute(sa.text(query)):
                    found.append(Violation("journal", str(subject), meaning, str(detail)))
        return found
