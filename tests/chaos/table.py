"""``python -m tests.chaos.table FILE...``: what runs of ``tests.chaos.run --json FILE`` came to, as one Markdown table.

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
    """The table, a row for each fault and one for all of them; a fault that a run skipped says in how many it was."""
    names = list(dict.fromkeys(row["fault"] for run in runs for row in run["faults"]))
    rows = [(name, [row for run in runs for row in run["faults"] if row["fault"] == name]) for name in names]
    every = [row for _, found in rows for row in found]
    lines = [
        f"| fault | {' | '.join(SUMMED)} | longest recovery |",
        f"|---|{'---|' * (len(SUMMED) + 1)}",
        *[_line(_named(name, found), found) for name, found in rows],
        _line("all", every),
    ]
    return "\n".join(lines)


def heading(runs: Sequence[dict[str, Any]]) -> str:
    """Which runs these are: seeds, seconds, and whether all was sound."""
    told = ", ".join(f"seed {run['seed']} ({run['seconds']} s, {_sound(run)})" for run in runs)
    return f"{len(runs)} runs: {told}"


def _sound(run: dict[str, Any]) -> str:
    return "sound" if run["sound"] else "NOT SOUND"


def _named(name: str, rows: Sequence[dict[str, Any]]) -> str:
    skipped = sum(row["skipped"] is not None for row in rows)
    return f"{name} (skipped in {skipped})" if skipped else name


def _line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    sums = [f"{sum(row[column] for row in rows):,}" for column in SUMMED]
    recoveries = [row["recovery_s"] for row in rows if row["recovery_s"] is not None]
    longest = f"{max(recoveries):.1f} s" if recoveries else ""
    return f"| {name} | {' | '.join(sums)} | {longest} |"


if __name__ == "__main__":
    given = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    sys.stdout.write(f"{heading(given)}\n\n{table(given)}\n")
