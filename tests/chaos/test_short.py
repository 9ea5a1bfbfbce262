"""The short form of ``python -m tests.chaos.run``: every fault a few times, on one plant."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.chaos.run import line, run

SEED = 4712


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_whatever_breaks_no_accepted_work_is_lost_or_counted_twice() -> None:
    # not in pytest's own folder: another session closes that to other accounts, and PostgreSQL runs as one
    with tempfile.TemporaryDirectory(prefix="retllm-chaos-") as folder:
        outcomes = run(SEED, whole=False, home=Path(folder) / "home", say=print)
    assert [line(outcome) for outcome in outcomes if not outcome.sound] == []
    # a fault that found nothing to break would prove nothing
    done = {outcome.fault: outcome for outcome in outcomes if outcome.skipped is None}
    assert done["worker killed"].retried > 0
    assert done["worker stands still"].fenced > 0
    assert done["picture kills its worker"].dead == 1
