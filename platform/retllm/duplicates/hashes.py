"""All pairs of hashes that differ in few bits, without comparing all with all (multi-index hashing).

A hash is divided into bands of 16 bits. Of two hashes that differ in few bits, some band differs in a quarter of them
at most (Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing", 2014). So only
hashes are compared of which one band is the same or differs that little. Where too many share a value of a band, as do
pictures with a white margin, the other bands divide them further. So every pair is found, whatever the hashes are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint64]
_Indexes: TypeAlias = NDArray[np.int64]

NEAREST = 32
"""Of each hash so many pairs are kept with hashes behind it, the nearest ones: those of many alike need a few only."""
_BANDS, _BITS = 4, 16
_VALUES = 1 << _BITS
# pairs that are compared at once, which take about 70 bytes each
_AT_ONCE = 1 << 21
# more pairs than that of two values of a band are divided further
_MANY = 1 << 24
# more pairs than that are reduced to the nearest ones before others are looked for
_MOST_KEPT = 1 << 22


class NearPairs(NamedTuple):
    """Pairs of hashes by their places, ``first`` before ``second``, in that order, and in how many bits they differ."""

    first: _Indexes
    second: _Indexes
    distance: NDArray[np.int64]


def near_pairs(hashes: Hashes, most: int, check: Callable[[], None] = lambda: None) -> NearPairs:
    """Return the pairs of hashes that differ in at most ``most`` bits.

    Args:
        hashes: all different.
        most: at most 15; the more, the longer it takes.
        check: called now and then; what it raises ends the search.
    """
    search = _Search(hashes, most, check)
    everything = np.arange(len(hashes), dtype=np.int64)
    search.join(everything, everything, tuple(range(_BANDS)), most, same=True)
    return search.found()


class _Search:
    def __init__(self, hashes: Hashes, most: int, check: Callable[[], None]) -> None:
        self._hashes, self._most, self._check = hashes, most, check
        shifts = np.arange(_BANDS, dtype=np.uint64)[:, None] * np.uint64(_BITS)
        self._bands = ((hashes[None, :] >> shifts) & np.uint64(_VALUES - 1)).astype(np.int64)
        # numbers of pairs, first * number of hashes + second, and their distances
        self._found: list[tuple[_Indexes, NDArray[np.int64]]] = []
        self._kept, self._limit = 0, _MOST_KEPT

    def found(self) -> NearPairs:
        """Return the pairs that were found, each once."""
        self._reduce()
        if not self._found:
            nothing = np.zeros(0, dtype=np.int64)
            return NearPairs(nothing, nothing, nothing)
        ((numbers, distances),) = self._found
        first, second = np.divmod(numbers, len(self._hashes))
        return NearPairs(first, second, distances)

    def join(self, left: _Indexes, right: _Indexes, bands: Sequence[int], most: int, *, same: bool) -> None:
        """Find the near pairs of some hashes with others, or with each other if these are the ``same``.

        Args:
            bands: in which they may differ.
            most: in so many bits at most.
        """
        if len(left) * len(right) <= _AT_ONCE or len(bands) == 1:
            begins = np.zeros(len(left), dtype=np.int64)
            self._compare(left, begins, np.full(len(left), len(right)), right, same=same)
            return
        for band in bands:
            self._join_by(band, left, right, [other for other in bands if other != band], most, same=same)

    def _join_by(
        self, band: int, left: _Indexes, right: _Indexes, others: Sequence[int], most: int, *, same: bool
    ) -> None:
        values = self._bands[band]
        left, right = (some[np.argsort(values[some], kind="stable")] for some in (left, right))
        counts = np.bincount(values[right], minlength=_VALUES)
        begins = np.cumsum(counts) - counts
        own, own_counts = values[left], np.bincount(values[left], minlength=_VALUES)
        own_begins = np.cumsum(own_counts) - own_counts
        for bits, mask in _masks(most // (len(others) + 1)):
            self._check()
            wanted = own ^ mask
            sizes = counts[wanted]
            if same and mask:
                # two values of one list are joined once
                sizes = np.where(wanted > own, sizes, 0)
            for value in np.unique(own[own_counts[own] * sizes > _MANY]):
                begin, other = own_begins[value], begins[value ^ mask]
                here = left[begin : begin + own_counts[value]]
                there = right[other : other + counts[value ^ mask]]
                self.join(here, there, others, most - bits, same=same and not mask)
                sizes[begin : begin + own_counts[value]] = 0
            self._compare(left, begins[wanted], sizes, right, same=same and not mask)

    def _compare(self, left: _Indexes, begins: _Indexes, sizes: _Indexes, right: _Indexes, *, same: bool) -> None:
        """Compare each of some hashes with ``sizes`` others, from those at ``begins`` on."""
        used = np.flatnonzero(sizes)
        left, begins, sizes = left[used], begins[used], sizes[used]
        ends = np.cumsum(sizes)
        start = 0
        while start < len(left):
            done = ends[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
            some = slice(start, end)
            self._check()
            one = np.repeat(left[some], sizes[some])
            place = np.arange(len(one)) - np.repeat(ends[some] - sizes[some] - done, sizes[some])
            other = right[np.repeat(begins[some], sizes[some]) + place]
            self._keep(one, other, same=same)
            start = end

    def _keep(self, one: _Indexes, other: _Indexes, *, same: bool) -> None:
        distances = np.bitwise_count(self._hashes[one] ^ self._hashes[other])
        near = distances <= self._most
        if same:
            near &= one < other
        one, other, distances = one[near], other[near], distances[near].astype(np.int64)
        if not len(one):
            return
        numbers = np.minimum(one, other) * len(self._hashes) + np.maximum(one, other)
        self._found.append((numbers, distances))
        self._kept += len(numbers)
        if self._kept > self._limit:
            self._reduce()
            self._limit = max(_MOST_KEPT, 2 * self._kept)

    def _reduce(self) -> None:
        """Keep each pair once, and of each hash the nearest ``NEAREST``."""
        if not self._found:
            return
        numbers, places = np.unique(np.concatenate([some for some, _ in self._found]), return_index=True)
        distances = np.concatenate([some for _, some in self._found])[places]
        first = numbers // len(self._hashes)
        order = np.lexsort((numbers, distances, first))
        ranks = np.arange(len(order)) - np.searchsorted(first, first)
        kept = np.sort(order[ranks < NEAREST])
        self._found = [(numbers[kept], distances[kept])]
        self._kept = len(kept)


def _masks(most: int) -> Iterator[tuple[int, int]]:
    """Yield the values of a band with at most so many bits, each with their number."""
    for number in range(most + 1):
        for bits in combinations(range(_BITS), number):
            yield number, sum(1 << bit for bit in bits)
