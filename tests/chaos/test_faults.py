"""Every fault on one platform: a few times, or with ``make soak`` as often as in ``python -m tests.chaos.run``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.faults import Fault, faults
from tests.chaos.run import line, prepared_scene
from tests.chaos.scene import Outcome, Scene
from tests.soak import SOAK, scaled

SEED = 4712
# a fault without an effect would prove nothing
HAD_EFFECT: dict[str, Callable[[Outcome], bool]] = {
    "worker killed": lambda outcome: outcome.retried > 0,
    "worker stands still": lambda outcome: outcome.fenced > 0,
    "picture kills its worker": lambda outcome: outcome.dead == 1,
}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    # not in pytest's own folder: other accounts can't read that one, and PostgreSQL runs under another account
    with (
        tempfile.TemporaryDirectory(prefix="retllm-chaos-") as folder,
        prepared_scene(SEED, long=SOAK, home=Path(folder) / "home") as prepared,
    ):
        yield prepared


@pytest.mark.chaos
@pytest.mark.timeout(scaled(600, 3600))
@pytest.mark.parametrize(("name", "fault", "load"), faults(SOAK), ids=[name for name, _, _ in faults(SOAK)])
def test_whatever_breaks_no_accepted_work_is_lost_or_counted_twice(
    scene: Scene, name: str, fault: Fault, load: bool
) -> None:
    outcome = scene.run(name, fault, load=load)
    print(line(outcome))
    assert outcome.sound, line(outcome)
    if outcome.skipped is not None:
        pytest.skip(outcome.skipped)
    assert HAD_EFFECT.get(name, lambda _: True)(outcome), line(outcome)
