"""The metric of batch sizes matches the forward passes of the models."""

from __future__ import annotations

from pathlib import Path

from retllm.bench.fine import captions, pictures
from retllm.embedding import load_embedder
from retllm.fine import Content, Injection, load_scorer
from retllm.metrics import REGISTRY
from retllm.settings import Settings
from retllm_tools.random_model import Size, save_random_model


class Since:
    """Counts the passes of a model and their total size since its creation."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._before = self._now()

    def _now(self) -> tuple[float, float]:
        values = (
            REGISTRY.get_sample_value(f"retllm_batch_size_{of}", {"model": self._model}) for of in ("count", "sum")
        )
        count, total = (value or 0.0 for value in values)
        return count, total

    def __call__(self) -> tuple[float, float]:
        count, total = self._now()
        return count - self._before[0], total - self._before[1]


def test_the_batches_of_an_embedder_are_counted() -> None:
    embedder = load_embedder(Settings(preset="demo", embedder=None).embedder_name, device="cpu")
    since = Since("embedder")
    embedder.embed_texts([f"text {number}" for number in range(5)])
    assert since() == (1, 5)
    embedder.embed_images(pictures(3, 28, 0))
    assert since() == (2, 8)


def test_the_batches_of_a_scorer_are_counted(tmp_path: Path) -> None:
    save_random_model(tmp_path, Size(width=128, layers=4, vocabulary=2100, picture=84), captions(40, 0))
    scorer = load_scorer(str(tmp_path), device="cpu")
    pool = [Content(image=one) for one in pictures(3, 84, 3)]
    off = Injection(trigger="off")
    # the first pictures are computed both ways, to find out whether the model allows image prefixes
    scorer.score(Content(text="a"), pool[:1], off)
    since = Since("scorer")
    with scorer.bare():
        scorer.score(Content(text="a"), pool, off)
    assert since() == (1, 3)
