"""A worker process tells at once when the state of one of its models has changed."""

from __future__ import annotations

import pytest

from retllm.errors import ModelUnavailable
from retllm_workers import context
from retllm_workers.context import HeldModel, watch_models


def test_a_change_is_told_after_it_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_WATCHERS", [])
    missing = [ModelUnavailable("There is no such file."), ModelUnavailable("There is no such file.")]

    def load() -> str:
        if missing:
            raise missing.pop()
        return "the model"

    held = HeldModel(load)
    told: list[tuple[str | None, bool]] = []
    watch_models(lambda: told.append((held.error, held.loaded is not None)))
    for _ in range(2):
        with pytest.raises(ModelUnavailable):
            held.get()
    assert told == [(held.error, False)]
    assert "There is no such file." in str(held.error)
    assert (held.get(), held.get()) == ("the model", "the model")
    assert told[1:] == [(None, True)]
