"""``python -m tests.chaos.run [--seed N] [--json FILE] [--short] [--only TEXT]``: hurt a whole platform and look at it.

Prints a table; exit status 1 when anything accepted was lost, counted twice, or a rule was broken.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.client import Client
from tests.chaos.disk import small_disk
from tests.chaos.faults import faults
from tests.chaos.platform import Platform
from tests.chaos.scene import Outcome, Scene

COLUMNS = ("times", "jobs", "units", "retried", "dead", "fenced", "lost", "doubled", "recovery_s", "seconds")


@contextmanager
def prepared(seed: int, *, whole: bool, home: Path) -> Iterator[Scene]:
    """A platform with a collection in it, ready for faults."""
    attempts = 5 if whole else 3
    with small_disk(home / "media") as reason, Platform(home, no_small_disk=reason, attempts=attempts) as platform:
        # a short run shows whether the platform recovers, beside other tests; a whole one how fast, and under full load
        slack, pace = (5.0, 0.0) if whole else (60.0, 6.0)
        scene = Scene(platform, Client(platform.url, platform.token), random.Random(seed), slack=slack, pace=pace)
        scene.furnish()
        yield scene


def run(
    seed: int, *, whole: bool, only: str = "", home: Path, say: Callable[[str], None] = lambda _: None
) -> list[Outcome]:
    """Every fault on one platform, one after the other."""
    outcomes = []
    with prepared(seed, whole=whole, home=home) as scene:
        for name, fault, load in faults(whole):
            if only in name:
                outcomes.append(scene.play(name, fault, load=load))
                say(line(outcomes[-1]))
    return outcomes


def head() -> str:
    """The first line of the table."""
    return f"{'fault':34}" + "".join(f"{name:>11}" for name in COLUMNS)


def line(outcome: Outcome) -> str:
    """A line of the table, with what is wrong below it."""
    values = "".join(f"{'-' if (v := getattr(outcome, name)) is None else v:>11}" for name in COLUMNS)
    if outcome.skipped is not None:
        values = f"  skipped: {outcome.skipped}"
    return "\n".join(
        [f"{outcome.fault:34}{values}", *[f"    {one}" for one in outcome.notes + outcome.violations[:20]]]
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--keep", type=Path, help="a new folder for data and logs, which stays")
    asked = parser.parse_args()
    began = time.monotonic()
    print(f"seed {asked.seed}\n{head()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="retllm-chaos-") as folder:
        home = asked.keep or Path(folder) / "home"
        outcomes = run(
            asked.seed, whole=not asked.short, only=asked.only, home=home, say=lambda text: print(text, flush=True)
        )
    sound = all(outcome.sound for outcome in outcomes)
    seconds = round(time.monotonic() - began)
    print(f"{'sound' if sound else 'NOT SOUND'}, {seconds} seconds")
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [outcome.as_json() for outcome in outcomes]
        asked.json.write_text(
            json.dumps({"seed": asked.seed, "sound": sound, "seconds": seconds, "faults": rows}, indent=1)
        )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
