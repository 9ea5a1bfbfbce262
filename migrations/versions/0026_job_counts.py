"""Count units and files by job, in the transaction that changes them, and list jobs and errors by indexes.

As for the counts of collections, triggers for each statement write the differences. No key refers to the job, since
checking it would lock the job after its unit; a trigger removes the counts with the job.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_UNITS = "job_id, stage, state, again, hour, units, items, attempts, changes, started_at, finished_at"
_UNIT = """job_id, stage, state, payload ? 'pass' AS again,
    CASE WHEN state = 'done' AND stage = 'embed' THEN date_trunc('hour', finished_at, 'UTC') END AS hour,
    coalesce(jsonb_array_length(payload->'items'), 0) AS items, attempt, run_after, started_at, finished_at"""
# rows that are the same before and after cancel each other out, such as those of renewed leases
_UNITS_BEFORE_AND_AFTER = f"""
    SELECT id, job_id, stage, state, again, hour, items, attempt, run_after, started_at, finished_at, sum(n) AS n
    FROM (SELECT id, {_UNIT}, -1 AS n FROM old_rows UNION ALL SELECT id, {_UNIT}, 1 FROM new_rows) AS both_rows
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 HAVING sum(n) <> 0
"""  # noqa: S608 - constants
_OF_UNITS = """
    SELECT job_id, stage, state, again, hour, sum(n), sum(n * items), sum(n * attempt), count(*),
        min(started_at) FILTER (WHERE n > 0), max(finished_at) FILTER (WHERE n > 0)
    FROM {rows} GROUP BY job_id, stage, state, again, hour
"""
_FILES = "job_id, status, part, come, arrived, count"
_OF_FILES = """
    SELECT job_id, status, parent_id IS NOT NULL AND entry IS NULL,
        parent_id IS NULL AND NOT (status = 'ignored' AND size_bytes IS NULL),
        parent_id IS NULL AND NOT (status = 'ignored' AND content IS NULL)
            AND coalesce(error_code, '') NOT IN ('incomplete', 'not_sent', 'unsendable'), sum(n * count)
    FROM {rows} AS changed GROUP BY 1, 2, 3, 4, 5 HAVING sum(n * count) <> 0
"""
_FILE = "job_id, status, parent_id, entry, size_bytes, content, error_code, count"


def _insert(table: str, columns: str, counted: str) -> str:
    # what is deleted with its job or collection is not counted any more
    return f"""
        INSERT INTO {table} ({columns})
        SELECT counted.* FROM ({counted}) AS counted ({columns})
        JOIN jobs j ON j.id = counted.job_id JOIN collections c ON c.id = j.collection_id AND c.deleted_at IS NULL;
    """  # noqa: S608 - constants


def _units(rows: str) -> str:
    return _insert("unit_counts", _UNITS, _OF_UNITS.format(rows=f"({rows}) AS changed"))


def _files(rows: str) -> str:
    return _insert("file_counts", _FILES, _OF_FILES.format(rows=f"({rows})"))


_NEW, _OLD = "NEW TABLE AS new_rows", "OLD TABLE AS old_rows"
_ROWS = {"INSERT": _NEW, "DELETE": _OLD, "UPDATE": f"{_OLD} {_NEW}"}
_NEW_FILES = f"SELECT {_FILE}, 1 AS n FROM new_rows"  # noqa: S608 - constants
_OLD_FILES = f"SELECT {_FILE}, -1 AS n FROM old_rows"  # noqa: S608 - constants
_BODIES = {
    ("units", "INSERT"): _units(f"SELECT {_UNIT}, 1 AS n FROM new_rows"),  # noqa: S608 - constants
    ("units", "DELETE"): _units(f"SELECT {_UNIT}, -1 AS n FROM old_rows"),  # noqa: S608 - constants
    ("units", "UPDATE"): _units(_UNITS_BEFORE_AND_AFTER),
    ("upload_files", "INSERT"): _files(_NEW_FILES),
    ("upload_files", "DELETE"): _files(_OLD_FILES),
    ("upload_files", "UPDATE"): _files(f"{_OLD_FILES} UNION ALL {_NEW_FILES}"),
    ("jobs", "DELETE"): """
        DELETE FROM unit_counts WHERE job_id IN (SELECT id FROM old_rows);
        DELETE FROM file_counts WHERE job_id IN (SELECT id FROM old_rows);
    """,
}


def _text_of(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    op.create_index("ix_jobs_user_id_state_id", "jobs", ["user_id", "state", "id"])
    op.create_index("ix_jobs_collection_id_state_id", "jobs", ["collection_id", "state", "id"])
    op.drop_index("ix_jobs_collection_id_state", "jobs")
    op.create_index(
        "ix_units_error", "units", ["job_id", "stage", "seq"], postgresql_where=sa.text("error IS NOT NULL")
    )
    op.create_index("ix_units_pass", "units", ["job_id", "id"], postgresql_where=sa.text("payload ? 'pass'"))
    stages = ("media", "embed", "coarse", "fine")
    states = ("ready", "leased", "done", "dead", "split", "cancelled")
    op.create_table(
        "unit_counts",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("stage", _text_of("stage", *stages), nullable=False),
        sa.Column("state", _text_of("unitstate", *states), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("units", "items", "attempts", "changes")),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("merged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_unit_counts")),
    )
    op.create_index("ix_unit_counts_hour", "unit_counts", ["hour"], postgresql_where=sa.text("hour IS NOT NULL"))
    statuses = ("waiting", "added", "duplicate", "updated", "read", "ignored", "rejected", "unprocessed", "not_sent")
    op.create_table(
        "file_counts",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("status", _text_of("filestatus", *statuses), nullable=False),
        sa.Column("part", sa.Boolean(), nullable=False),
        sa.Column("come", sa.Boolean(), nullable=False),
        sa.Column("arrived", sa.Boolean(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("merged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_counts")),
    )
    for table in ("unit_counts", "file_counts"):
        op.create_index(f"ix_{table}_job_id", table, ["job_id"])
        op.create_index(f"ix_{table}_unmerged", table, ["job_id"], postgresql_where=sa.text("NOT merged"))
    for (table, operation), body in _BODIES.items():
        name = f"count_{table}_{operation.lower()}"
        # with the search path of now, since a restored dump sets none
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ "
            f"BEGIN {body} RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {name} AFTER {operation} ON {table} REFERENCING {_ROWS[operation]} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )
    # the triggers keep others from writing until the end of this transaction
    op.execute(_units(f"SELECT {_UNIT}, 1 AS n FROM units"))  # noqa: S608 - constants
    op.execute(_files(f"SELECT {_FILE}, 1 AS n FROM upload_files"))  # noqa: S608 - constants


def downgrade() -> None:
    for table, operation in _BODIES:
        name = f"count_{table}_{operation.lower()}"
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP FUNCTION {name}")
    op.drop_table("file_counts")
    op.drop_table("unit_counts")
    op.drop_index("ix_units_pass", "units")
    op.drop_index("ix_units_error", "units")
    op.create_index("ix_jobs_collection_id_state", "jobs", ["collection_id", "state"])
    op.drop_index("ix_jobs_collection_id_state_id", "jobs")
    op.drop_index("ix_jobs_user_id_state_id", "jobs")
