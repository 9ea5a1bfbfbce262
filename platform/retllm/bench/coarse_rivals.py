"""What ``retllm bench coarse`` compares the platform with: other indexes of the same vectors (the extra ``bench``).

FAISS keeps an HNSW graph in memory, with the figures of the platform's own: it is the limit of what an index of this
kind gives without a database. LanceDB, embedded in the process, is what people use who want neither.
"""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retllm.bench.coarse_data import Filter, Generated, Vectors
from retllm.indexing.vector_indexes import EF_CONSTRUCTION, NEIGHBOURS

_EF_SEARCH = 100


class Rival(Protocol):
    """Another index of the vectors of one collection.

    Attributes:
        build_seconds: from vectors in memory or in its table to the index; storing them is not included.
    """

    build_seconds: float

    def find(self, query: Vectors, k: int, among: Filter) -> list[uuid.UUID]:
        """Return the keys of the ``k`` nearest items that match."""
        ...


class Faiss:
    """HNSW of FAISS in memory; a filter is a bit for each item."""

    def __init__(self, one: Generated, _folder: Path) -> None:
        import faiss

        self._faiss: Any = faiss
        self._keys = one.keys
        self._index = faiss.IndexHNSWFlat(one.dimension, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self.build_seconds = 0.0
        for piece in one.pieces():
            began = time.perf_counter()
            self._index.add(piece.vectors)
            self.build_seconds += time.perf_counter() - began
        self._columns = _columns(one)
        self._filters: dict[Filter, Any] = {}
        # queries come one by one, from several clients
        faiss.omp_set_num_threads(1)

    def find(self, query: Vectors, k: int, among: Filter) -> list[uuid.UUID]:
        """Return the keys of the ``k`` nearest items that match."""
        chosen = self._faiss.SearchParametersHNSW(efSearch=max(k, _EF_SEARCH), sel=self._selector(among))
        _, found = self._index.search(query[None], k, params=chosen)
        return [self._keys[number] for number in found[0] if number >= 0]

    def _selector(self, among: Filter) -> Any:
        if not among.column:
            return None
        if among not in self._filters:
            bits = np.packbits(among.matches(self._columns), bitorder="little")
            self._filters[among] = self._faiss.IDSelectorBitmap(bits)
        return self._filters[among]


class LanceDb:
    """A table of LanceDB in a folder, with HNSW over quantized vectors and an index of each column; filtered before."""

    def __init__(self, one: Generated, folder: Path) -> None:
        import lancedb
        from lancedb.index import Bitmap, BTree, HnswSq

        self._keys = one.keys
        self._table: Any = lancedb.connect(folder).create_table("vectors", _rows(one))
        began = time.perf_counter()
        self._table.create_index("vector", config=HnswSq(distance_type="cosine"))
        self.build_seconds = time.perf_counter() - began
        for column in _columns(one):
            self._table.create_index(column, config=Bitmap() if column == "kind" else BTree())

    def find(self, query: Vectors, k: int, among: Filter) -> list[uuid.UUID]:
        """Return the keys of the ``k`` nearest items that match."""
        search = self._table.search(query).distance_type("cosine").select(["number", "_distance"]).limit(k)
        if among.column:
            search = search.where(among.sql, prefilter=True)
        return [self._keys[number] for number in search.to_arrow()["number"].to_pylist()]


def _columns(one: Generated) -> Mapping[str, NDArray[Any]]:
    pieces = [piece.columns for piece in one.pieces()]
    return {name: np.concatenate([columns[name] for columns in pieces]) for name in pieces[0]}


def _rows(one: Generated) -> Any:
    import pyarrow as pa

    numbers = pa.array(range(one.size), pa.int64())
    vectors = pa.chunked_array(
        [pa.FixedSizeListArray.from_arrays(pa.array(piece.vectors.ravel()), one.dimension) for piece in one.pieces()]
    ).combine_chunks()
    return pa.table({**_columns(one), "number": numbers, "vector": vectors})


_RIVALS: dict[str, tuple[str, type[Faiss] | type[LanceDb]]] = {
    "faiss": ("faiss", Faiss),
    "lancedb": ("lancedb", LanceDb),
}


def installed() -> Sequence[str]:
    """Return the names of the rivals that can be measured here."""
    return [name for name, (module, _) in _RIVALS.items() if importlib.util.find_spec(module)]


def build(name: str, one: Generated, folder: Path) -> Rival:
    """Build a rival's index of all vectors of a collection; ``folder`` is its own."""
    return _RIVALS[name][1](one, folder)
