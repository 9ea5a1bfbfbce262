"""The whole schema; importing this module registers every table."""

from __future__ import annotations

from retllm.db import (
    counts,
    duplicates,
    imports,
    jobs,
    maps,
    operations,
    people,
    reviews,
    searches,
    tables,
    uploads,
    vectors,
)
from retllm.db.base import Base

__all__ = [
    "counts",
    "duplicates",
    "imports",
    "jobs",
    "maps",
    "metadata",
    "operations",
    "people",
    "reviews",
    "searches",
    "tables",
    "uploads",
    "vectors",
]

metadata = Base.metadata
