"""Audit rules and the violations that they find."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Violation:
    """A broken rule.

    Attributes:
        rule: name of the rule.
        subject: key of the job, unit, search or file.
        meaning: what should be true.
        detail: what was found.
    """

    rule: str
    subject: str
    meaning: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.meaning}, but {self.subject}: {self.detail}"

    def as_json(self) -> dict[str, str]:
        """Return the violation as a JSON object."""
        return asdict(self)


# what hangs on a job, and the column with the key of the job
_JOBS = {
    "jobs": "id",
    "units": "job_id",
    "uploads": "id",
    "upload_files": "job_id",
    "searches": "id",
    "candidates": "search_id",
    "scores": "search_id",
}
# these tables without what is in deleted collections, which is removed in pieces
_THERE = ", ".join(
    f"{table} AS NOT MATERIALIZED (SELECT * FROM {table} WHERE {key} NOT IN (SELECT id FROM gone))"  # noqa: S608 - constants
    for table, key in _JOBS.items()
)
# the collections of searches of several that are not deleted; a search is `reduced` if others were
_STILL = "search_collections x JOIN collections c ON c.id = x.collection_id AND c.deleted_at IS NULL"
# and one row for each item of a unit; `way` is the embedder, the pass and the step
_VIEWS = f"""
    WITH gone AS (
        SELECT j.id FROM jobs j JOIN collections c ON c.id = j.collection_id WHERE c.deleted_at IS NOT NULL
        UNION ALL SELECT j.id FROM jobs j WHERE j.collection_id IS NULL
            AND NOT EXISTS (SELECT FROM {_STILL} WHERE x.search_id = j.id)
    ), reduced AS (
        SELECT s.id FROM searches s WHERE s.collections > (SELECT count(*) FROM {_STILL} WHERE x.search_id = s.id)
    ), {_THERE}, vector_indexes AS NOT MATERIALIZED (
        SELECT x.* FROM vector_indexes x JOIN collections c ON c.id = x.collection_id WHERE c.deleted_at IS NULL
    ), unit_items AS (
        SELECT u.id, u.job_id, u.stage, u.state, named.item,
               u.payload->>'embedder' AS embedder, u.payload->>'pass' AS pass,
               concat_ws(' ', u.payload->>'embedder', u.payload->>'pass', u.payload->>'step') AS way
        FROM units u CROSS JOIN LATERAL jsonb_array_elements_text(u.payload->'items') AS named(item)
    ), scoring AS (
        SELECT * FROM unit_items WHERE stage = 'fine' AND pass IS DISTINCT FROM 'entropy' AND state <> 'split'
    )
"""  # noqa: S608 - constants


@dataclass(frozen=True)
class Rule:
    """A rule: its name, its meaning, and the query that finds violations.

    The query returns pairs (subject, detail). Its parameters are ``:quiet`` (the system is idle), ``:overdue``
    (seconds) and ``:limit`` (rows).
    """

    name: str
    meaning: str
    query: str

    @property
    def statement(self) -> str:
        """The complete SQL statement."""
        return _VIEWS + self.query
