"""What is alike comes near to each other, of any number of vectors, and each time to the same place."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from retllm.errors import JobCancelled, StackError
from retllm.maps import layout, process
from retllm.maps.layout import Vectors, fitted

CLUSTERS = 3


def clusters(number: int) -> Vectors:
    """So many vectors around three directions, one of each after the other."""
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(CLUSTERS, 32))
    found = middles[np.arange(number) % CLUSTERS] + rng.normal(scale=0.1, size=(number, 32))
    return found.astype(np.float32)


def nearest_alike(places: Vectors) -> float:
    """Of how many places the nearest other one is of the same cluster."""
    distances = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return float(np.mean(distances.argmin(axis=1) % CLUSTERS == np.arange(len(places)) % CLUSTERS))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 16, 49, 51])
def test_any_number_of_vectors_is_laid_out(number: int) -> None:
    places = fitted(layout.layout(clusters(number)), 100)
    assert places.shape == (number, 2)
    assert np.isfinite(places).all()
    assert number == 0 or (places.min() >= 0 and places.max() <= 100)


@pytest.mark.parametrize("number", [30, 300])
def test_what_is_alike_is_near_and_stays_where_it_was(number: int) -> None:
    vectors = clusters(number)
    places = layout.layout(vectors)
    assert nearest_alike(places) > 0.98
    assert np.array_equal(layout.layout(vectors), places)


def test_those_outside_of_the_sample_come_beside_their_neighbours_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SAMPLE", 150)
    monkeypatch.setattr(layout, "_AT_ONCE", 40)
    vectors = clusters(300)
    places = layout.layout(vectors)
    assert nearest_alike(places) > 0.98
    assert np.array_equal(layout.layout(vectors), places)


def test_equal_vectors_and_such_without_direction_have_a_place() -> None:
    for number in (3, 60):
        equal = np.ones((number, 8), dtype=np.float32)
        equal[:2] = 0
        places = fitted(layout.layout(equal), 100)
        assert np.isfinite(places).all()


def test_a_map_fills_its_square_without_being_stretched() -> None:
    places = fitted(np.array([[0, 5], [10, 5], [5, 7.5]], dtype=np.float32), 100)
    assert places.tolist() == [[0, 37.5], [100, 37.5], [50, 62.5]]
    assert fitted(np.array([[3, 3]], dtype=np.float32), 100).tolist() == [[50, 50]]
    assert fitted(np.array([[np.nan, 0], [1, 1]], dtype=np.float32), 100)[0].tolist()[0] == 50


def written(folder: Path, vectors: Vectors) -> Path:
    path = folder / "vectors"
    vectors.tofile(path)
    return path


def test_the_process_returns_what_the_function_does(tmp_path: Path) -> None:
    vectors = clusters(120)
    places = process.laid_out(written(tmp_path, vectors), vectors.shape[1], lambda: None)
    assert np.allclose(places, layout.layout(vectors), atol=1e-3)


def test_a_job_that_is_cancelled_ends_the_process(tmp_path: Path) -> None:
    began = time.monotonic()

    def cancelled() -> None:
        raise JobCancelled

    with pytest.raises(JobCancelled):
        process.laid_out(written(tmp_path, clusters(20_000)), 32, cancelled)
    assert time.monotonic() - began < 60
    left = [one for one in psutil.Process().children(recursive=True) if layout.__name__ in one.cmdline()]
    assert left == []


def test_a_process_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"(?s)failed.*reshape"):
        process.laid_out(written(tmp_path, clusters(10)), 7, lambda: None)


def test_without_umap_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(StackError, match=r"pip install 'retllm-platform\[map\]'"):
        process.require()
