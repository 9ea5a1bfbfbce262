"""Shared by all tables: constraint names, column types by annotation, keys."""

from __future__ import annotations

import secrets
import time
import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from retllm.db.enums import (
    AttemptOutcome,
    DecidedBy,
    FileStatus,
    ItemKind,
    ItemState,
    JobKind,
    JobState,
    MemberRole,
    Positions,
    Role,
    RunSource,
    Stage,
    TokenScope,
    UnitState,
    Visibility,
)

_last_tick = 0


def new_id() -> uuid.UUID:
    """Return a new UUID v7, so that keys sort by creation time, those of one thread strictly.

    Below the milliseconds it counts 4,096ths of them (RFC 9562, 6.2, method 3). A generator that moves a whole
    millisecond on for each key dates the keys of a process that makes many minutes ahead of those of others.
    """
    global _last_tick
    _last_tick = tick = max((time.time_ns() << 12) // 1_000_000, _last_tick + 1)
    milliseconds, fraction = divmod(tick, 1 << 12)
    variant = 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | variant)


def _enum(kind: type[StrEnum]) -> sa.Enum:
    # text with a CHECK constraint: a new member needs a one-line migration and no new type
    return sa.Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
        name=kind.__name__.lower(),
    )


class Base(DeclarativeBase):
    """Base class of all tables; constraints have fixed names, which migrations use."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: sa.DateTime(timezone=True),
        # None is SQL NULL, not the JSON value null
        dict[str, Any]: JSONB(none_as_null=True),
        str: sa.Text,
        list[str]: ARRAY(sa.Text),
        list[uuid.UUID]: ARRAY(sa.Uuid),
        Role: _enum(Role),
        MemberRole: _enum(MemberRole),
        Visibility: _enum(Visibility),
        Positions: _enum(Positions),
        RunSource: _enum(RunSource),
        ItemKind: _enum(ItemKind),
        ItemState: _enum(ItemState),
        JobKind: _enum(JobKind),
        JobState: _enum(JobState),
        Stage: _enum(Stage),
        UnitState: _enum(UnitState),
        AttemptOutcome: _enum(AttemptOutcome),
        TokenScope: _enum(TokenScope),
        DecidedBy: _enum(DecidedBy),
        FileStatus: _enum(FileStatus),
    }


class Keyed:
    """A UUID v7 key and the creation time of the row."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
