"""Rules for the kept counts (``db.counts``): they are those of the rows, at any time."""

from __future__ import annotations

from retllm.db.counts import OF_COLLECTIONS, OF_FILES, OF_UNITS, Counted
from retllm.queue.violations import Rule


def _right(counted: Counted, name: str, what: str, gone: str) -> Rule:
    table, sums = counted.table.__tablename__, [name for name in counted.sums if name != "changes"]
    differences = ", ".join(f"sum({name}) AS {name}" for name in sums)
    real = f"SELECT {counted.of}, {', '.join(f'-{name}' for name in sums)} FROM ({counted.real}) AS found"  # noqa: S608 - constants
    return Rule(
        name,
        f"the kept counts of {what} are those of the rows",
        f"""SELECT {counted.owner}, 'too many: ' || (to_jsonb(compared) - '{counted.owner}')::text FROM (
                SELECT {counted.of}, {differences} FROM (
                    SELECT {counted.of}, {", ".join(sums)} FROM {table}
                    UNION ALL {real}
                ) AS both_of_them GROUP BY {counted.of}
            ) AS compared
            WHERE ({" OR ".join(f"{name} <> 0" for name in sums)})
                AND {counted.owner} NOT IN ({gone}) LIMIT :limit""",  # noqa: S608 - constants
    )


_COLLECTIONS = "SELECT id FROM collections WHERE deleted_at IS NOT NULL"
COUNT_RULES = (
    _right(OF_COLLECTIONS, "collection_counts_are_right", "items and vectors", _COLLECTIONS),
    _right(OF_UNITS, "unit_counts_are_right", "units", "SELECT id FROM gone"),
    _right(OF_FILES, "file_counts_are_right", "files", "SELECT id FROM gone"),
)
"""Every rule; names are unique."""
