"""Fixtures for the small models of :mod:`tests.unit.fine.families`; each model is saved and loaded only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.scoring_server import MODEL, ScoringServer, SmallModel, serving, small_model
from tests.unit.fine.families import FAMILIES, save_model
from tests.unit.fine.reference import Reference

from retllm.fine import Scorer, load_scorer
from retllm.fine.interface import FineScorer
from retllm.fine.opening import open_scorer
from retllm.fine.remote import client
from retllm.settings import Settings

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's saved model, created once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_model(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def scorer_of(model_folder: Callable[[str], Path]) -> Callable[[str], Scorer]:
    """Return a family's scorer, loaded once."""
    loaded: dict[str, Scorer] = {}

    def scorer(family: str) -> Scorer:
        if family not in loaded:
            loaded[family] = load_scorer(str(model_folder(family)), device="cpu")
        return loaded[family]

    return scorer


@pytest.fixture(params=FAMILIES)
def scorer(request: pytest.FixtureRequest, scorer_of: Callable[[str], Scorer]) -> Scorer:
    """A scorer of each family."""
    return scorer_of(request.param)


@pytest.fixture
def qwen(scorer_of: Callable[[str], Scorer]) -> Scorer:
    """A scorer of one family, for tests that do not depend on the family."""
    return scorer_of("qwen2_5_vl")


@pytest.fixture(scope="session")
def reference_of(model_folder: Callable[[str], Path]) -> Callable[[str], Reference]:
    """Return the method's formulas in float64 for a family's model."""
    made: dict[str, Reference] = {}

    def reference(family: str) -> Reference:
        if family not in made:
            made[family] = Reference(model_folder(family))
        return made[family]

    return reference


@pytest.fixture(scope="module")
def small() -> SmallModel:
    """The shipped model, which a server can be put in front of."""
    return small_model()


@pytest.fixture
def server(small: SmallModel) -> Iterator[ScoringServer]:
    """A server of scores in front of it."""
    with serving(small) as running:
        yield running


@pytest.fixture
def opened(server: ScoringServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FineScorer]:
    """Return a function that opens a scorer on the server, which retries for 0.3 s."""
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.3)

    def open_(protocol: str = "openai", path: str = "", **settings: object) -> FineScorer:
        address = f"{protocol}+{server.root}{path}#{MODEL}"
        return open_scorer(Settings(scorer=address, **settings))

    return open_
