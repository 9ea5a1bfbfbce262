"""A journal of every change of a unit, job or result, written by triggers in the database.

It records what each transaction did and when. It thus shows duplicates and writes without a valid token, which the
final rows do not show.
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
    -- results may be flushed between the two, all in the transaction that holds the token
    IF TG_OP = 'UPDATE' AND OLD.token IS NOT NULL AND NEW.token IS NULL THEN
        INSERT INTO journal (what, job, key, token) VALUES ('released', NEW.job_id, NEW.id, OLD.token);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON units FOR EACH ROW EXECUTE FUNCTION journal_unit();

-- a unit that a worker holds is taken from it with its collection
CREATE FUNCTION journal_removed_unit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO journal (what, job, key, before, after) VALUES ('unit', OLD.job_id, OLD.id, OLD.state, 'removed');
    RETURN NULL;
END $$;
CREATE TRIGGER journal_removed AFTER DELETE ON units
    FOR EACH ROW WHEN (OLD.state = 'leased') EXECUTE FUNCTION journal_removed_unit();

CREATE FUNCTION journal_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO journal (what, job, key, after) VALUES ('job', NEW.id, NEW.id, NEW.state);
    ELSIF OLD.state <> NEW.state THEN
        INSERT INTO journal (what, job, key, before, after) VALUES ('job', NEW.id, NEW.id, OLD.state, NEW.state);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION journal_job();

CREATE FUNCTION journal_file() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.status <> NEW.status THEN
        INSERT INTO journal (what, job, key, before, after) VALUES ('file', NEW.job_id, NEW.id, OLD.status, NEW.status);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER UPDATE OF status ON upload_files FOR EACH ROW EXECUTE FUNCTION journal_file();

CREATE FUNCTION journal_effect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO journal (what, key, before, after, job) VALUES (
        TG_TABLE_NAME, NEW.item_id, TG_OP, to_jsonb(NEW)->>'item_version',
        CASE WHEN TG_TABLE_NAME = 'embeddings' THEN NULL ELSE (to_jsonb(NEW)->>'search_id')::uuid END);
    RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE OF vector, item_version ON embeddings
    FOR EACH ROW EXECUTE FUNCTION journal_effect();
CREATE TRIGGER journal AFTER INSERT OR UPDATE ON scores FOR EACH ROW EXECUTE FUNCTION journal_effect();
CREATE TRIGGER journal AFTER INSERT ON candidates FOR EACH ROW EXECUTE FUNCTION journal_effect();
"""

_EFFECTS = "('embeddings', 'scores', 'candidates', 'file')"
_COMMITS = "(SELECT * FROM journal WHERE what = 'unit' AND before = 'leased' AND after = 'done')"

# each query returns pairs (subject, detail)
_RULES = {
    "results are written only in the transaction that completes a leased unit": f"""
        SELECT e.what || ' ' || e.key, 'transaction ' || e.tx FROM journal e WHERE e.what IN {_EFFECTS}
        AND NOT (e.what = 'file' AND e.after IN ('rejected', 'unprocessed'))  -- no attempts left, or cancelled
        AND NOT EXISTS (SELECT FROM {_COMMITS} c JOIN journal g ON g.tx = c.tx AND g.key = c.key AND g.what = 'released'
            JOIN journal t ON t.what = 'unit' AND t.after = 'leased' AND t.key = c.key AND t.token = g.token
            WHERE c.tx = e.tx)""",
    "a unit is completed once": """
        SELECT key, count(*) || ' times' FROM journal WHERE what = 'unit' AND after = 'done'
        GROUP BY key HAVING count(*) > 1""",
    "a finished unit changes only when it is retried": """
        SELECT key, before || ' to ' || after FROM journal WHERE what = 'unit' AND (before IN ('done', 'split')
            OR (before IN ('dead', 'cancelled') AND after <> 'ready'))""",
    "a token leases a unit once": """
        SELECT key, token || ', ' || count(*) FROM journal WHERE what = 'unit' AND after = 'leased'
        GROUP BY key, token HAVING count(*) > 1""",
    "only a ready unit is leased": """
        SELECT key, coalesce(before, '') || ' to leased' FROM journal
        WHERE what = 'unit' AND after = 'leased' AND before <> 'ready'""",
    "a job ends once, and again only after a retry": """
        SELECT key, count(*) FILTER (WHERE after IN ('succeeded', 'partial', 'failed', 'cancelled')) || ' ends, '
            || count(*) FILTER (WHERE before IN ('succeeded', 'partial', 'failed', 'cancelled')) || ' new starts'
        FROM journal WHERE what = 'job' GROUP BY key
        HAVING count(*) FILTER (WHERE after IN ('succeeded', 'partial', 'failed', 'cancelled'))
             > count(*) FILTER (WHERE before IN ('succeeded', 'partial', 'failed', 'cancelled')) + 1
            OR count(*) FILTER (WHERE before = 'succeeded') > 0""",
    "a file gets its outcome once": """
        SELECT key, string_agg(before || ' to ' || after, ', ' ORDER BY id) FROM journal WHERE what = 'file'
        GROUP BY key HAVING count(*) > 1""",
    "a vector is written once for each version of its item, whichever jobs want it": """
        SELECT key, 'version ' || after || ', ' || count(*) || ' times' FROM journal WHERE what = 'embeddings'
        GROUP BY key, after HAVING count(*) > 1""",
    "a result is written once for each job": f"""
        SELECT e.what || ' ' || e.key, 'job ' || c.job || ', ' || count(DISTINCT e.tx) || ' times'
        FROM journal e JOIN {_COMMITS} c ON c.tx = e.tx
        WHERE e.what IN ('scores', 'candidates') AND NOT (e.what = 'scores' AND e.before = 'UPDATE')
        GROUP BY e.what, e.key, c.job HAVING count(DISTINCT e.tx) > 1""",
}


@dataclass(frozen=True)
class Tally:
    """Counts since a mark: units that lost or failed an attempt, units done, dead units and new jobs."""

    retried: int
    done: int
    dead: int
    jobs: int


@dataclass(frozen=True)
class FaultSnapshot:
    """The leased units and the number of claimable units when a fault was injected.

    They were read between ``at`` and ``seen``, in seconds since 1970.
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
        """Create the journal and its triggers."""
        with transaction(self._sessions) as session:
            session.connection().exec_driver_sql(INSTALL)

    def mark(self) -> int:
        """Return the current end of the journal."""
        with self._sessions() as session:
            return int(session.scalar(sa.text("SELECT coalesce(max(id), 0) FROM journal")) or 0)

    def tally(self, since: int) -> Tally:
        """Count what happened since a mark."""
        query = "SELECT what, before, after, count(*) FROM journal WHERE id > :since GROUP BY what, before, after"
        with self._sessions() as session:
            rows = session.execute(sa.text(query), {"since": since}).all()
        counts: Counter[tuple[Any, ...]] = Counter({(what, before, after): n for what, before, after, n in rows})
        lost = counts["unit", "leased", "ready"] + counts["unit", "leased", "split"] + counts["unit", "leased", "dead"]
        dead = counts["unit", "leased", "dead"]
        return Tally(lost, counts["unit", "leased", "done"], dead, counts["job", None, "queued"])

    def recovery_seconds(self, snapshot: FaultSnapshot) -> float | None:
        """Return the seconds until all units of a snapshot were released and work continued, or None."""
        query = """
            SELECT count(*) FILTER (WHERE released_at IS NOT NULL), extract(epoch FROM max(released_at)) FROM (
                SELECT (SELECT min(g.at) FROM journal g
                        WHERE g.what = 'unit' AND g.key = held.key AND g.before = 'leased' AND g.id > coalesce(
                            (SELECT max(t.id) FROM journal t WHERE t.what = 'unit' AND t.key = held.key
                             AND t.after = 'leased' AND t.at <= to_timestamp(:seen)), 0)) AS released_at
                FROM unnest(cast(:held AS text[])) AS held(key)) AS each_one"""
        continued = """
            SELECT extract(epoch FROM min(at)) FROM journal
            WHERE what = 'unit' AND after = 'leased' AND at > to_timestamp(:at)"""
        parameters = {"held": [str(unit) for unit in snapshot.held], "seen": snapshot.seen}
        with self._sessions() as session:
            count, last = session.execute(sa.text(query), parameters).one()
            first = session.scalar(sa.text(continued), {"at": snapshot.at}) if snapshot.waiting else snapshot.at
        if count < len(set(snapshot.held)) or first is None:
            return None
        return max(0.0, float(last or snapshot.at) - snapshot.at, float(first) - snapshot.at)

    def claimers(self, at: float) -> set[str]:
        """Return the process IDs of the workers that claimed a unit since ``at``."""
        query = (
            "SELECT DISTINCT worker FROM journal WHERE what = 'unit' AND after = 'leased' AND at > to_timestamp(:at)"
        )
        with self._sessions() as session:
            return {str(worker).rpartition(":")[2] for worker in session.scalars(sa.text(query), {"at": at})}

    def violations(self) -> list[Violation]:
        """Return every duplicate and every write without a valid token."""
        found = []
        with self._sessions() as session:
            for meaning, query in _RULES.items():
                for subject, detail in session.execute(sa.text(query)):
                    found.append(Violation("journal", str(subject), meaning, str(detail)))
        return found
