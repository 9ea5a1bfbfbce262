"""Which models of a started stack can't be had, by what its workers report."""

from __future__ import annotations

from typing import Any

from retllm.cli.awaited_models import early_models, failures
from retllm.settings import Settings


def model(name: str, *, loaded: bool = False, error: str | None = None) -> dict[str, Any]:
    return {"name": name, "revision": None, "loaded": loaded, "error": error}


def test_a_model_is_told_once_and_only_if_it_cannot_be_had() -> None:
    awaited = {"clip", "large", "small"}
    assert failures([[model("clip")], []], awaited) == {}
    assert awaited == {"clip", "large", "small"}
    reports = [
        [model("clip", loaded=True), model("other", error="It is broken.")],
        [model("large", error="It is away.")],
    ]
    assert failures(reports, awaited) == {"large": "It is away. `retllm doctor` says what to do."}
    assert awaited == {"small"}
    assert failures(reports, awaited) == {}
    # one of two workers has it
    assert failures([[model("small", loaded=True, error="It was broken.")]], awaited) == {}
    assert not awaited


def test_models_of_other_machines_are_not_awaited() -> None:
    settings = Settings(preset="best", extra_embedders=("org/more",), extra_scorers=("openai+http://gpu:1/v1#m",))  # type: ignore[arg-type]
    assert early_models(settings) == {"PE-Core-L-14-336/meta", "Qwen/Qwen3-VL-8B-Instruct", "openai:m"}
    assert early_models(settings.model_copy(update={"embed_workers": 0, "score_workers": 0})) == set()
