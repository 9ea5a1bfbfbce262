"""A worker process serves one scorer, that of its queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retllm.errors import InvalidInput
from retllm.settings import Settings
from retllm_workers import context


@pytest.fixture(autouse=True)
def two_scorers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings = Settings(extra_scorers=["/models/other"])  # type: ignore[list-item]  # parsed
    monkeypatch.setattr(context, "get_settings", lambda: settings)
    monkeypatch.setattr(context, "_SERVED", [])
    context.worker_settings.cache_clear()
    yield
    context.worker_settings.cache_clear()


@pytest.mark.parametrize(
    ("queues", "served"),
    [(["score"], "mllm"), (["query", "embed"], "mllm"), (["embed", "score:other"], "/models/other")],
)
def test_a_worker_has_the_settings_of_the_scorer_of_its_queue(queues: list[str], served: str) -> None:
    context.serve(queues)
    assert context.worker_settings().scorer_name.endswith(served)


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        (["score", "score:other"], "One worker serves one scorer: start a process for each of score, score:other."),
        (["score:third"], "The scorer third is not configured. The scorers are mllm, other."),
    ],
)
def test_queues_of_several_scorers_or_of_an_unknown_one_are_refused(queues: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        context.serve(queues)
    assert raised.value.message == message
