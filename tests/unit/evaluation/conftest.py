"""An embedder and a scorer with predictable results."""

from __future__ import annotations

import pytest
from tests.unit.evaluation.stages import ColourEmbedder, ColourScorer


@pytest.fixture
def embedder() -> ColourEmbedder:
    return ColourEmbedder()


@pytest.fixture
def scorer() -> ColourScorer:
    return ColourScorer()
