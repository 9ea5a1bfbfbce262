"""The table of ``retllm bench duplicates``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retllm.cli import show

if TYPE_CHECKING:
    from retllm.bench.duplicates import DuplicateQuality


def show_duplicates(result: DuplicateQuality) -> None:
    """Print which share of pictures counts as near-duplicates: of each change, and of pairs of different scenes."""
    rows = [*result.recall.items(), ("pairs of different scenes", result.false)]
    columns = [f"≤ {distance} bits" for distance in result.false.by_hash]
    show.table(
        ("near-duplicates among", *columns, "in use", "with vectors"),
        [(name, *map(_share, (*told.by_hash.values(), told.in_use, told.with_vectors))) for name, told in rows],
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}" if not 0 < value < 0.001 else f"{100 * value:.2g} %"
