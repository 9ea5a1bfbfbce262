"""A worker uses its share of the cores, or the configured number of threads."""

from __future__ import annotations

import os
from typing import Any

import pytest

from retllm.settings import Settings
from retllm_workers import context


@pytest.mark.parametrize(
    ("cores", "settings", "embed", "score"),
    [
        (8, {}, 8, 8),
        (1, {}, 1, 1),
        (16, {"score_workers": 3, "embed_workers": 2}, 8, 5),
        (16, {"score_workers": 0, "embed_workers": 0}, 16, 16),
        (8, {"torch_threads": 3}, 3, 3),
        # one on a server needs none
        (12, {"extra_scorers": ["/models/other", "openai+http://gpu:1#m"], "score_workers": 2}, 12, 3),
    ],
)
def test_the_cores_are_shared_among_the_workers_of_a_kind(
    cores: int, settings: dict[str, Any], embed: int, score: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    given = Settings(**settings)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr("torch.set_num_threads", limits.append)
    monkeypatch.setattr(context, "get_settings", lambda: given)
    context.limit_threads(given.embed_workers)
    context.limit_threads(context.local_score_workers())
    assert limits == [embed, score]
