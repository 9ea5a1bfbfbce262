"""Lay out vectors in two dimensions by UMAP (McInnes, Healy and Melville, 2018); also the program of a process.

Few vectors are laid out by their principal components: they have no neighbourhoods that UMAP could keep, and it
compiles for many seconds first. Equal vectors give equal layouts. Of many vectors a random sample is laid out, and the
others are put where their nearest neighbours in it are, some at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 20_000
"""More vectors than that are not laid out together."""
_AT_ONCE = 5_000
_NEIGHBOURS = 15
# of fewer vectors, the neighbourhoods tell too little
_FEW = 50
_SEED = 42

Vectors = NDArray[np.float32]


def layout(vectors: Vectors) -> Vectors:
    """Return a place for each vector, of the shape (n, 2), in units of no meaning.

    Args:
        vectors: of the shape (n, dimension), in random order: the first ``SAMPLE`` are the sample. They may be on disk.
    """
    if len(vectors) < _FEW:
        return _principal(np.asarray(vectors))
    found = np.empty((len(vectors), 2), dtype=np.float32)
    model = _model()
    with warnings.catch_warnings():
        # that vectors far from all others have no edges, and that one thread is used
        warnings.simplefilter("ignore")
        found[:SAMPLE] = model.fit_transform(np.asarray(vectors[:SAMPLE]))
        for start, end in _parts(SAMPLE, len(vectors)):
            found[start:end] = model.transform(np.asarray(vectors[start:end]))
    return found


def _model() -> Any:
    import umap

    return umap.UMAP(n_neighbors=_NEIGHBOURS, metric="cosine", random_state=_SEED, n_jobs=1)


def _principal(vectors: Vectors) -> Vectors:
    """Return the first two principal components of the directions of vectors."""
    found = np.zeros((len(vectors), 2), dtype=np.float32)
    if not len(vectors):
        return found
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    left, values, _ = np.linalg.svd(directions - directions.mean(axis=0), full_matrices=False)
    components = left[:, :2] * values[:2]
    # the sign of a component means nothing: its largest value is positive
    largest = components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])]
    found[:, : components.shape[1]] = components * np.where(largest < 0, -1, 1)
    return found


def _parts(first: int, end: int) -> Iterator[tuple[int, int]]:
    for start in range(first, end, _AT_ONCE):
        yield start, min(end, start + _AT_ONCE)


def fitted(places: Vectors, side: float) -> Vectors:
    """Return places moved and scaled into a square, with the same scale in both directions and in its middle.

    A place that is no number, as that of a vector without direction may be, comes into the middle.
    """
    if not len(places):
        return places
    middle = np.nan_to_num((np.nanmin(places, axis=0) + np.nanmax(places, axis=0)) / 2)
    largest = float(np.nan_to_num(np.nanmax(np.abs(places - middle)))) or 1.0
    found: Vectors = np.nan_to_num((places - middle) / largest * (side / 2) + side / 2, nan=side / 2).clip(0, side)
    return found


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however that happened: its end of the pipe closes."""
    # not by the file object, whose lock the end of this process would wait for
    os.read(0, 1)
    os._exit(1)


def main(source: str, target: str, dimension: str) -> None:
    """Lay out the vectors of a file, which has their numbers and nothing else, and write the places to another one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    vectors: Vectors = np.memmap(Path(source), dtype=np.float32, mode="r").reshape(-1, int(dimension))
    layout(vectors).tofile(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
