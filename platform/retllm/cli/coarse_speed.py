"""What ``retllm bench coarse`` prints."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click

from retllm.cli import show

_GOALS = {
    "stage": ("median of a job's coarse stage, x tuned query", "2.00 at most"),
    "recall": ("recall@100, in the worst filter", "0.99 at least"),
    "filtered": ("p95 of the slowest filter, x no filter", "3.00 at most"),
    "bulk": ("COPY and build, vectors/s, x inserting into the index", "5.00 at least"),
    "growth": ("median, x that of the collection of about 10,000", "3.00 at most"),
}
_NO_INDEX = "no index"
# the ways that use the index that the platform builds
_OF_PLATFORM_INDEX = frozenset({"platform", "bare", "tuned"})


def show_coarse(result: dict[str, Any]) -> None:
    """Print the result of one run, its ratios with their goals last."""
    beside, into = result["insert_per_second"]
    table, index = result["bytes_per_vector"]
    others = result["others"]
    built = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["build_seconds"].items()) or "none"
    beyond = f"{sum(one['size'] for one in others):,} in {len(others):,} other collections"
    inserted, used = f"{beside:,.0f} vectors/s", f"{table:,.0f} bytes a vector in the table"
    if result["indexed"]:
        inserted, used = f"{inserted} beside the index, {into:,.0f} into it", f"{used}, {index:,.0f} in the index"
    click.echo(
        f"{result['size']:,} vectors of {result['dimension']} dimensions, beside {beyond}. "
        f"Stored at {result['load_per_second']:,.0f} vectors/s; index built: {built}. Inserted later at "
        f"{inserted}. {used}. The coarse stage of a search job takes {result['stage_p50_ms']:.1f} ms (median)."
    )
    if not result["indexed"]:
        click.echo(
            f"No vector index was measured: {result['size']:,} vectors are so few that the platform builds none. "
            f"The ways marked “{_NO_INDEX}” compare each of them with the query."
        )
    _show_answers(result["answers"], set() if result["indexed"] else _OF_PLATFORM_INDEX)
    if others:
        large = [
            (_marked(f"{one['size']:,}", one["indexed"]), f"{one['recall_100']:.3f}", f"{one['p50_ms']:.1f}")
            for one in _larger(others)
        ]
        show.table(("collection", "recall@100", "p50 ms"), large, "The largest of each size")
        click.echo(f"recall@100 in the worst of the other collections: {min(one['recall_100'] for one in others):.3f}")
    ratios = [(_GOALS[name][0], f"{value:.3f}", _GOALS[name][1]) for name, value in result["ratios"].items()]
    show.table(("ratio of this run", "", "goal"), ratios)


def _larger(others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one collection of each size."""
    return list({one["size"]: one for one in reversed(others)}.values())[::-1]


def _marked(name: str, indexed: bool) -> str:
    return name if indexed else f"{name}, {_NO_INDEX}"


def _show_answers(answers: dict[str, dict[str, dict[str, Any]]], without_index: Collection[str]) -> None:
    rows = [
        (
            _marked(way, way not in without_index),
            name,
            f"{found['recall_10']:.3f}",
            f"{found['recall_100']:.3f}",
            f"{found['fewest']}",
            f"{found['p50_ms']:.1f}",
            f"{found['p95_ms']:.1f}",
            *(f"{rate:.0f}" for rate in found["per_second"]),
        )
        for way, by_filter in answers.items()
        for name, found in by_filter.items()
    ]
    numbers = ("recall@10", "recall@100", "fewest of 100", "p50 ms", "p95 ms", "1 client/s", "8 clients/s")
    show.table(("", "among", *numbers), rows)
