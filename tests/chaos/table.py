"""``python -m tests.chaos.table FILE...``: the results of ``tests.chaos.run --json FILE`` as one Markdown table.

Counts are summed over the runs; a recovery is the longest of any run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUMMED = ("times", "jobs", "units", "retried", "fenced", "lost", "doubled")


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table: a row for each fault, with the number of runs that skipped it, and one for all faults."""
    names = list(dict.fromkeys(row["fault"] for run in runs for row in run["faults"]))
    rows = [(name, [row for run in runs for row in run["faults"] if row["fault"] == name]) for name in names]
    every = [row for _, found in rows for row in found]
    lines = [
        f"| fault | {' | '.join(SUMMED)} | longest recovery |",
        f"|---|{'---|' * (len(SUMMED) + 1)}",
        *[_line(_label(name, found), found) for name, found in rows],
        _line("all", every),
    ]
    return "\n".join(lines)


def heading(runs: Sequence[dict[str, Any]]) -> str:
    """Return the seed, the duration and the result of each run."""
    described = ", ".join(f"seed {run['seed']} ({run['seconds']} s, {_sound(run)})" for run in runs)
    return f"{len(runs)} runs: {described}"


def _sound(run: dict[str, Any]) -> str:
    return "sound" if run["sound"] else "NOT SOUND"


def _label(name: str, rows: Sequence[dict[str, Any]]) -> str:
    skipped = sum(row["skipped"] is not None for row in rows)
    return f"{name} (skipped in {skipped})" if skipped else name


def _line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    sums = [f"{sum(row[column] for row in rows):,}" for column in SUMMED]
    recoveries = [row["recovery_s"] for row in rows if row["recovery_s"] is not None]
    longest = f"{max(recoveries):.1f} s" if recoveries else ""
    return f"| {name} | {' | '.join(sums)} | {longest} |"


if __name__ == "__main__":
    results = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    sys.stdout.write(f"{heading(results)}\n\n{table(results)}\n")
