"""The schema of release 0.2."""

from __future__ import annotations

import pgvector.sqlalchemy
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "users",
    "api_tokens",
    "logins",
    "audit_log",
    "saved_views",
    "embedding_models",
    "collections",
    "collection_members",
    "items",
    "embeddings",
    "jobs",
    "units",
    "attempts",
    "searches",
    "candidates",
    "scores",
    "score_cache",
    "judgments",
    "evaluation_runs",
    "workers",
    "paused_queues",
    "metric_totals",
)


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    _people()
    _collections()
    _jobs()
    _searches()
    _reviews()
    _operations()


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column(
            "role",
            sa.Enum("admin", "editor", "viewer", name="role", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_login_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_index("uq_users_lower_name", "users", [sa.text("lower(name)")], unique=True)
    op.create_table(
        "api_tokens",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "scope",
            sa.Enum(
                "read",
                "search",
                "change",
                "manage",
                name="tokenscope",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default=sa.text("'manage'"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_tokens_digest")),
    )
    op.create_index(op.f("ix_api_tokens_user_id"), "api_tokens", ["user_id"], unique=False)
    op.create_table(
        "logins",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("agent", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_logins_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logins")),
    )
    op.create_index(op.f("ix_logins_user_id"), "logins", ["user_id"], unique=False)
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
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_action_id", "audit_log", ["action", "id"], unique=False)
    op.create_index("ix_audit_log_collection_id_id", "audit_log", ["collection_id", "id"], unique=False)
    op.create_index("ix_audit_log_user_name_id", "audit_log", ["user_name", "id"], unique=False)
    op.create_table(
        "saved_views",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_saved_views_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_views")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_saved_views_user_id_name")),
    )


def _collections() -> None:
    op.create_table(
        "embedding_models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("preprocessing_hash", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embedding_models")),
        sa.UniqueConstraint(
            "name", "revision", "preprocessing_hash", name=op.f("uq_embedding_models_name_revision_preprocessing_hash")
        ),
    )
    op.create_table(
        "collections",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "visibility",
            sa.Enum("private", "everyone", name="visibility", native_enum=False, create_constraint=True, length=16),
            server_default=sa.text("'private'"),
            nullable=False,
        ),
        sa.Column("embedder", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_collections_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collections")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_collections_owner_id_name")),
    )
    op.create_table(
        "collection_members",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column(
            "role",
            sa.Enum("editor", "viewer", name="memberrole", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_collection_members_collection_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_collection_members_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", "user_id", name=op.f("pk_collection_members")),
    )
    op.create_index("ix_collection_members_user_id", "collection_members", ["user_id"], unique=False)
    op.create_table(
        "items",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "image", "text", "image+text", name="itemkind", native_enum=False, create_constraint=True, length=16
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum("ready", "deleted", name="itemstate", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("picture_key", sa.Text(), nullable=True),
        sa.Column("thumbnail_key", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "words",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('english', coalesce(text, ''))", persisted=True),
            nullable=True,
        ),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_items_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
    )
    op.create_index("ix_items_collection_id_id", "items", ["collection_id", "id"], unique=False)
    op.create_index(
        "ix_items_failed", "items", ["collection_id", "id"], unique=False, postgresql_where=sa.text("error IS NOT NULL")
    )
    op.create_index(
        "ix_items_ready",
        "items",
        ["collection_id", "id"],
        unique=False,
        postgresql_include=["kind", "version"],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index("ix_items_words", "items", ["words"], unique=False, postgresql_using="gin")
    op.create_index(
        "uq_items_collection_content",
        "items",
        ["collection_id", "content_sha256"],
        unique=True,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "embeddings",
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("item_version", sa.Integer(), nullable=False),
        sa.Column("image_weight", sa.Double(), nullable=False),
        sa.Column("vector", pgvector.sqlalchemy.VECTOR(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("token", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_embeddings_collection_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_embeddings_item_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["embedding_models.id"], name=op.f("fk_embeddings_model_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("item_id", "model_id", name=op.f("pk_embeddings")),
    )
    op.create_index(
        "ix_embeddings_fresh",
        "embeddings",
        ["collection_id", "model_id", "item_id"],
        unique=False,
        postgresql_include=["item_version", "image_weight"],
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column(
            "kind",
            sa.Enum("index", "search", name="jobkind", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "succeeded",
                "partial",
                "failed",
                "cancelled",
                name="jobstate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("params", postgresql.JSONB(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_jobs_collection_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_jobs_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("user_id", "idempotency_key", name=op.f("uq_jobs_user_id_idempotency_key")),
    )
    op.create_index("ix_jobs_collection_id_id", "jobs", ["collection_id", "id"], unique=False)
    op.create_index("ix_jobs_collection_id_state", "jobs", ["collection_id", "state"], unique=False)
    op.create_index(
        "ix_jobs_finished_at",
        "jobs",
        ["finished_at"],
        unique=False,
        postgresql_include=["kind", "state", "collection_id", "created_at"],
    )
    op.create_index("ix_jobs_kind_state_id", "jobs", ["kind", "state", "id"], unique=False)
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"], unique=False)
    op.create_index("ix_jobs_user_id_id", "jobs", ["user_id", "id"], unique=False)
    op.create_table(
        "units",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum("embed", "coarse", "fine", name="stage", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "ready",
                "leased",
                "done",
                "dead",
                "split",
                "cancelled",
                name="unitstate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.Uuid(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_after", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_units_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_units")),
        sa.UniqueConstraint("job_id", "stage", "seq", name=op.f("uq_units_job_id_stage_seq")),
    )
    op.create_index("ix_units_dead", "units", ["finished_at"], unique=False, postgresql_where=sa.text("state = 'dead'"))
    op.create_index(
        "ix_units_done", "units", ["stage", "finished_at"], unique=False, postgresql_where=sa.text("state = 'done'")
    )
    op.create_index(
        "ix_units_leased", "units", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'leased'")
    )
    op.create_index(
        "ix_units_ready", "units", ["stage", "run_after"], unique=False, postgresql_where=sa.text("state = 'ready'")
    )
    op.create_table(
        "attempts",
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("unit_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "outcome",
            sa.Enum(
                "committed",
                "failed",
                "lost",
                "returned",
                "cancelled",
                name="attemptoutcome",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=True,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["unit_id"], ["units.id"], name=op.f("fk_attempts_unit_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_attempts")),
    )
    op.create_index(
        "ix_attempts_open", "attempts", ["unit_id"], unique=False, postgresql_where=sa.text("outcome IS NULL")
    )
    op.create_index("ix_attempts_unit_id_token", "attempts", ["unit_id", "token"], unique=False)
    op.create_index(
        "uq_attempts_committed", "attempts", ["unit_id"], unique=True, postgresql_where=sa.text("outcome = 'committed'")
    )


def _searches() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "image", "text", "image+text", name="itemkind", native_enum=False, create_constraint=True, length=16
            ),
            nullable=False,
        ),
        sa.Column("query_text", sa.Text(), nullable=True),
        sa.Column("query_picture_key", sa.Text(), nullable=True),
        sa.Column("query_picture_sha256", sa.Text(), nullable=True),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("item_kinds", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("query_image_weight", sa.Double(), nullable=False),
        sa.Column("embedder", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        sa.Column("scorer", sa.Text(), nullable=False),
        sa.Column("scorer_revision", sa.Text(), nullable=True),
        sa.Column("scorer_version", sa.Text(), nullable=True),
        sa.Column("prompt_version", sa.Text(), nullable=True),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("injection", postgresql.JSONB(), nullable=False),
        sa.Column("tie_decimals", sa.Integer(), nullable=False),
        sa.Column("searched_items", sa.Integer(), nullable=True),
        sa.Column("coarse_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("final_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("adaptive", postgresql.JSONB(), nullable=True),
        sa.Column("fusion_weight", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("trace", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("coarse", postgresql.JSONB(), nullable=True),
        sa.Column("unit_candidates", sa.Integer(), server_default=sa.text("8"), nullable=False),
        sa.Column("match_threshold", sa.Double(), nullable=True),
        sa.Column("no_match", sa.Boolean(), nullable=True),
        sa.Column("question", sa.Text(), server_default=sa.text("(gen_random_uuid())::text"), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_searches_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["embedding_models.id"], name=op.f("fk_searches_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
    )
    op.create_index("ix_searches_question", "searches", ["question"], unique=False)
    op.create_table(
        "candidates",
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("coarse_rank", sa.Integer(), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=True),
        sa.Column("final_rank", sa.Integer(), nullable=True),
        sa.Column(
            "decided_by",
            sa.Enum(
                "score", "entropy", "coarse", name="decidedby", native_enum=False, create_constraint=True, length=16
            ),
            nullable=True,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("sources", postgresql.JSONB(), nullable=True),
        sa.Column("token", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_candidates_item_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_candidates_search_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "item_id", name=op.f("pk_candidates")),
    )
    op.create_index(
        "ix_candidates_first", "candidates", ["search_id"], unique=False, postgresql_where=sa.text("final_rank = 1")
    )
    op.create_index("ix_candidates_item_id", "candidates", ["item_id"], unique=False)
    op.create_table(
        "scores",
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("scorer_version", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("entropy", sa.Double(), nullable=True),
        sa.Column("injected_layer", sa.Integer(), nullable=True),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("log_odds", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("trace", postgresql.JSONB(), nullable=True),
        sa.Column("cached", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("token", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["search_id", "item_id"],
            ["candidates.search_id", "candidates.item_id"],
            name=op.f("fk_scores_search_id_item_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("search_id", "item_id", "scorer_version", name=op.f("pk_scores")),
    )
    op.create_index("ix_scores_scorer_version_created_at", "scores", ["scorer_version", "created_at"], unique=False)
    op.create_table(
        "score_cache",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("log_odds", sa.Double(), nullable=True),
        sa.Column("entropy", sa.Double(), nullable=True),
        sa.Column("injected_layer", sa.Integer(), nullable=True),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("trace", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_score_cache")),
    )
    op.create_index("ix_score_cache_created_at", "score_cache", ["created_at"], unique=False)


def _reviews() -> None:
    op.create_table(
        "judgments",
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("relevant", sa.Boolean(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("search_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_judgments_collection_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_judgments_item_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_judgments_search_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_judgments_user_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("collection_id", "question", "item_id", name=op.f("pk_judgments")),
    )
    op.create_index("ix_judgments_collection_id_updated_at", "judgments", ["collection_id", "updated_at"], unique=False)
    op.create_index("ix_judgments_item_id", "judgments", ["item_id"], unique=False)
    op.create_index("ix_judgments_search_id", "judgments", ["search_id"], unique=False)
    op.create_table(
        "evaluation_runs",
        sa.Column("collection_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "source",
            sa.Enum("uploaded", "reviewed", name="runsource", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("report", postgresql.JSONB(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
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
        sa.Column(
            "models", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_index("ix_workers_seen_at", "workers", ["seen_at"], unique=False)
    op.create_table(
        "paused_queues",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_paused_queues_user_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_paused_queues")),
    )
    op.create_table(
        "metric_totals",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_metric_totals")),
    )


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)
