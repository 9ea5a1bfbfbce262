"""What ``retllm bench coarse`` compares the platform with: other indexes of the same vectors (the extra ``bench``).

FAISS keeps an HNSW graph in memory, with the figures of the platform's own: it is the limit of what an index of this
kind gives without a database. LanceDB, embedded in the process, is what people use who want neither.
"""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retllm.bench.coarse_data import Generated, Kinds, Vectors
from retllm.db.enums import ItemKind
from retllm.indexing.vector_indexes import EF_CONSTRUCTION, NEIGHBOURS

_EF_SEARCH = 100


class Rival(Protocol):
    """Another index of the vectors of one collection.

    Attributes:
        build_seconds: from vectors in memory or in its table to the index; storing them is not included.
    """

    build_seconds: float

    def find(self, query: Vectors, k: int, kinds: Kinds) -> list[uuid.UUID]:
        """Return the keys of the ``k`` nearest items of these kinds."""
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
        kinds: list[ItemKind] = []
        for piece in one.pieces():
            began = time.perf_counter()
            self._index.add(piece.vectors)
            self.build_seconds += time.perf_counter() - began
            kinds += piece.kinds
        self._kinds = np.array(kinds)
        self._filters: dict[Kinds, Any] = {}
        # queries come one by one, from several clients
        faiss.omp_set_num_threads(1)

    def find(self, query: Vectors, k: int, kinds: Kinds) -> list[uuid.UUID]:
        """Return the keys of the ``k`` nearest items of these kinds."""
        chosen = self._faiss.SearchParametersHNSW(efSearch=max(k, _EF_SEARCH), sel=self._selector(kinds))
        _, found = self._index.search(query[None], k, params=chosen)
        return [self._keys[number] for number in found[0] if number >= 0]

    def _selector(self, kinds: Kinds) -> Any:
        if len(kinds) == len(ItemKind):
            return None
        if kinds not in self._filters:
            bits = np.packbits(np.isin(self._kinds, kinds), bitorder="little")
            self._filters[kinds] = self._faiss.IDSelectorBitmap(bits)
        return self._filters[kinds]


class LanceDb:
    """A table of LanceDB in a folder, with HNSW over quantized vectors and a bitmap of kinds; filtered before."""

    def __init__(self, one: Generated, folder: Path) -> None:
        import lancedb
        from lancedb.index import Bitmap, HnswSq

        self._keys = one.keys
        self._table: Any = lancedb.connect(folder).create_table("vectors", _rows(one))
        began = time.perf_counter()
        self._table.create_index("vector", config=HnswSq(distance_type="cosine"))
        self._table.create_index("kind", config=Bitmap())
        self.build_seconds = time.perf_counter() - began

    def find(self, query: Vectors, k: int, kinds: Kinds) -> list[uuid.UUID]:
        """Return the keys of the ``k`` nearest items of these kinds."""
        search = self._table.search(query).distance_type("cosine").select(["number", "_distance"]).limit(k)
        if len(kinds) < len(ItemKind):
            search = search.where(f"kind IN ({', '.join(repr(kind.value) for kind in kinds)})", prefilter=True)
        return [self._keys[number] for number in search.to_arrow()["number"].to_pylist()]


def _rows(one: Generated) -> Any:
    import pyarrow as pa

    numbers = pa.array(range(one.size), pa.int64())
    kinds = pa.array([kind.value for piece in one.pieces() for kind in piece.kinds])
    vectors = pa.chunked_array(
        [pa.FixedSizeListArray.from_arrays(pa.array(piece.vectors.ravel()), one.dimension) for piece in one.pieces()]
    ).combine_chunks()
    return pa.table({"number": numbers, "kind": kinds, "vector": vectors})


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
