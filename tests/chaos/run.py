"""``python -m tests.chaos.run [--seed N] [--json FILE] [--short] [--only TEXT]``: inject faults into a platform.

Prints a table; the exit status is 1 if accepted work was lost or counted twice, or a rule was broken.
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
def prepared_scene(seed: int, *, long: bool, home: Path) -> Iterator[Scene]:
    """Start a platform with an indexed collection."""
    # the rounds of the dispatchers take more processor time than the work of a short run
    attempts, dispatch = (5, 0.2) if long else (3, 0.6)
    with (
        small_disk(home / "media") as reason,
        Platform(home, no_small_disk=reason, attempts=attempts, dispatch_seconds=dispatch) as platform,
    ):
        # a short run beside other tests shows whether the platform recovers, a long one how fast under full load
        slack, pace = (5.0, 0.0) if long else (60.0, 6.0)
        scene = Scene(platform, Client(platform.url, platform.token), random.Random(seed), slack=slack, pace=pace)
        scene.create_library()
        yield scene


def run(
    seed: int, *, long: bool, only: str = "", home: Path, report: Callable[[str], None] = lambda _: None
) -> list[Outcome]:
    """Inject every fault into one platform, one after the other."""
    outcomes = []
    with prepared_scene(seed, long=long, home=home) as scene:
        for name, fault, load in faults(long):
            if only in name:
                outcomes.append(scene.run(name, fault, load=load))
                report(line(outcomes[-1]))
    return outcomes


def head() -> str:
    """Return the first line of the table."""
    return f"{'fault':34}" + "".join(f"{name:>11}" for name in COLUMNS)


def line(outcome: Outcome) -> str:
    """Return a line of the table, with its violations below it."""
    values = "".join(f"{'-' if (v := getattr(outcome, name)) is None else v:>11}" for name in COLUMNS)
    if outcome.skipped is not None:
        values = f"  skipped: {outcome.skipped}"
    return "\n".join(
        [f"{outcome.fault:34}{values}", *[f"    {one}" for one in outcome.notes + outcome.violations[:20]]]
    )


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="", help="only faults whose name contains this text")
    parser.add_argument("--keep", type=Path, help="a new folder for data and logs that is not deleted")
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}\n{head()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="retllm-chaos-") as folder:
        home = options.keep or Path(folder) / "home"
        outcomes = run(
            options.seed,
            long=not options.short,
            only=options.only,
            home=home,
            report=lambda text: print(text, flush=True),
        )
    sound = all(outcome.sound for outcome in outcomes)
    seconds = round(time.monotonic() - began)
    print(f"{'sound' if sound else 'NOT SOUND'}, {seconds} seconds")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [outcome.as_json() for outcome in outcomes]
        options.json.write_text(
            json.dumps({"seed": options.seed, "sound": sound, "seconds": seconds, "faults": rows}, indent=1)
        )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
