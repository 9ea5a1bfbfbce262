"""Roles, members, an audit log, saved views; judgments and evaluation runs; workers, paused queues; lasting errors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")
_MOMENT = sa.DateTime(timezone=True)


def _choice(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    _roles(("admin", "editor", "viewer"), {"member": "editor"})
    op.add_column("users", sa.Column("last_login_at", _MOMENT, nullable=True))
    op.add_column(
        "collections",
        sa.Column("visibility", _choice("visibility", "private", "everyone"), server_default="private", nullable=False),
    )
    op.add_column("collections", sa.Column("embedder", sa.Text(), nullable=True))
    op.add_column("units", sa.Column("traceback", sa.Text(), nullable=True))
    _questions()
    _people()
    _reviews()
    _operations()
    _indexes()


def _roles(allowed: tuple[str, ...], renamed: dict[str, str]) -> None:
    op.drop_constraint(op.f("ck_users_role"), "users", type_="check")
    for old, new in renamed.items():
        users = sa.table("users", sa.column("role", sa.Text()))
        op.execute(users.update().where(users.c.role == old).values(role=new))
    op.create_check_constraint(op.f("ck_users_role"), "users", sa.column("role").in_(allowed))


def _questions() -> None:
    default = sa.text("(gen_random_uuid())::text")
    op.add_column("searches", sa.Column("question", sa.Text(), server_default=default, nullable=False))
    # as retllm.review.question_of makes it of new ones
    op.execute(
        "UPDATE searches SET question = encode(sha256(convert_to(coalesce(query_text, ''), 'UTF8') || '\\x00'::bytea"
        " || convert_to(coalesce(query_picture_sha256, ''), 'UTF8')), 'hex')"
    )
    op.create_index(op.f("ix_searches_question"), "searches", ["question"], unique=False)


def _people() -> None:
    op.create_table(
        "collection_members",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", _choice("memberrole", "editor", "viewer"), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_collection_members_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_collection_members_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", "user_id", name=op.f("pk_collection_members")),
    )
    op.create_index("ix_collection_members_user_id", "collection_members", ["user_id"], unique=False)
    op.create_table(
        "audit_log",
        sa.Column("user_name", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("target_id", sa.Uuid(), nullable=True),
        sa.Column("collection_id", sa.Uuid(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    for column in ("user_name", "action", "collection_id"):
        op.create_index(f"ix_audit_log_{column}_id", "audit_log", [column, "id"], unique=False)
    op.create_table(
        "saved_views",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_saved_views_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_views")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_saved_views_user_id_name")),
    )


def _reviews() -> None:
    op.create_table(
        "judgments",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("relevant", sa.Boolean(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("search_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.Column("updated_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_judgments_collection_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_judgments_item_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_judgments_user_id"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_judgments_search_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("collection_id", "question", "item_id", name=op.f("pk_judgments")),
    )
    op.create_index("ix_judgments_item_id", "judgments", ["item_id"], unique=False)
    op.create_index("ix_judgments_search_id", "judgments", ["search_id"], unique=False)
    op.create_index("ix_judgments_collection_id_updated_at", "judgments", ["collection_id", "updated_at"], unique=False)
    op.create_table(
        "evaluation_runs",
        sa.Column("collection_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", _choice("runsource", "uploaded", "reviewed"), nullable=False),
        sa.Column("report", postgresql.JSONB(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_evaluation_runs_collection_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_evaluation_runs_user_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_runs")),
    )
    op.create_index("ix_evaluation_runs_collection_id_id", "evaluation_runs", ["collection_id", "id"], unique=False)


def _operations() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("models", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("started_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.Column("seen_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.Column("stopped_at", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_index("ix_workers_seen_at", "workers", ["seen_at"], unique=False)
    op.create_table(
        "paused_queues",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", _MOMENT, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_paused_queues_user_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_paused_queues")),
    )
    op.create_table(
        "metric_totals",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_metric_totals")),
    )


def _indexes() -> None:
    ready, failed = sa.text("state = 'ready'"), sa.text("error IS NOT NULL")
    op.create_index(
        "ix_items_ready",
        "items",
        ["collection_id", "id"],
        postgresql_include=["kind", "version"],
        postgresql_where=ready,
    )
    op.create_index("ix_items_failed", "items", ["collection_id", "id"], postgresql_where=failed)
    op.create_index(
        "ix_embeddings_fresh",
        "embeddings",
        ["collection_id", "model_id", "item_id"],
        postgresql_include=["item_version", "image_weight"],
    )
    op.drop_index(op.f("ix_embeddings_collection_id"), table_name="embeddings")
    op.create_index("ix_jobs_collection_id_state", "jobs", ["collection_id", "state"])
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    op.create_index("ix_jobs_kind_state_id", "jobs", ["kind", "state", "id"])
    op.create_index("ix_candidates_first", "candidates", ["search_id"], postgresql_where=sa.text("final_rank = 1"))
    ended = ["kind", "state", "collection_id", "created_at"]
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"], postgresql_include=ended)
    op.create_index("ix_units_dead", "units", ["finished_at"], postgresql_where=sa.text("state = 'dead'"))
    op.create_index("ix_units_done", "units", ["stage", "finished_at"], postgresql_where=sa.text("state = 'done'"))


def downgrade() -> None:
    for index, table in (
        ("ix_units_done", "units"),
        ("ix_units_dead", "units"),
        ("ix_jobs_finished_at", "jobs"),
        ("ix_candidates_first", "candidates"),
        ("ix_jobs_kind_state_id", "jobs"),
        ("ix_jobs_state_id", "jobs"),
        ("ix_jobs_collection_id_state", "jobs"),
        ("ix_items_failed", "items"),
        ("ix_items_ready", "items"),
    ):
        op.drop_index(index, table_name=table)
    op.create_index(op.f("ix_embeddings_collection_id"), "embeddings", ["collection_id"], unique=False)
    op.drop_index("ix_embeddings_fresh", table_name="embeddings")
    for table in (
        "metric_totals",
        "paused_queues",
        "workers",
        "evaluation_runs",
        "judgments",
        "saved_views",
        "audit_log",
        "collection_members",
    ):
        op.drop_table(table)
    op.drop_index(op.f("ix_searches_question"), table_name="searches")
    op.drop_column("searches", "question")
    op.drop_column("units", "traceback")
    op.drop_column("collections", "embedder")
    op.drop_constraint(op.f("ck_collections_visibility"), "collections", type_="check")
    op.drop_column("collections", "visibility")
    op.drop_column("users", "last_login_at")
    # the second schema knows members only; a viewer must not become somebody who changes things
    op.execute("UPDATE users SET disabled_at = coalesce(disabled_at, now()) WHERE role = 'viewer'")
    op.execute("UPDATE users SET role = 'editor' WHERE role = 'viewer'")
    _roles(("admin", "member"), {"editor": "member"})
