"""The faults: each hurts a scene while jobs are in flight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.chaos.scene import Scene

Fault = Callable[[Scene], None]


def kill_workers(scene: Scene, times: int) -> None:
    """kill -9 of one worker after the other, at moments that nobody chose."""
    for _ in range(times):
        scene.hurt(partial(scene.plant.kill, scene.victim()))
        scene.pause(0.05, 0.8)


def faults(whole: bool) -> list[tuple[str, Fault]]:
    """Every fault by its name, in a form that takes minutes (``whole``) or one that takes seconds."""
    return [
        ("worker killed", partial(kill_workers, times=50 if whole else 8)),
    ]
