"""Multi-index hashing finds exactly the pairs that comparing all with all finds, at a fraction of the comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from retllm.duplicates import hashes as searching
from retllm.duplicates.hashes import near_pairs

Hashes = NDArray[np.uint64]
RNG = np.random.default_rng(7)


def random_hashes(count: int) -> Hashes:
    return np.unique(RNG.integers(0, 1 << 64, count, dtype=np.uint64))


def flipped(hashes: Hashes, most: int) -> Hashes:
    """Each hash with up to ``most`` of its bits flipped, wherever they are."""
    result = hashes.copy()
    for place in range(len(result)):
        for bit in RNG.choice(64, RNG.integers(0, most + 1), replace=False):
            result[place] ^= np.uint64(1) << np.uint64(bit)
    return result


def compared_with_all(hashes: Hashes, most: int) -> dict[tuple[int, int], int]:
    values = hashes.tolist()
    pairs = ((i, j) for i in range(len(values)) for j in range(i + 1, len(values)))
    distances = {(i, j): bin(values[i] ^ values[j]).count("1") for i, j in pairs}
    return {pair: distance for pair, distance in distances.items() if distance <= most}


def found(hashes: Hashes, most: int) -> dict[tuple[int, int], int]:
    pairs = near_pairs(hashes, most)
    listed = list(zip(*(part.tolist() for part in pairs), strict=True))
    assert listed == sorted(listed), "in their order, each once"
    return {(first, second): distance for first, second, distance in listed}


def clusters() -> Hashes:
    centres = random_hashes(60)
    return np.unique(np.concatenate([centres, *(flipped(centres, 10) for _ in range(6))]))


def of_one_band() -> Hashes:
    """Hashes that are the same in three bands of four, as pictures with the same large background are."""
    return np.unique(np.concatenate([RNG.integers(0, 1 << 16, 300, dtype=np.uint64), random_hashes(50)]))


@pytest.fixture(params=["at once", "divided"])
def _limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with limits so small that bands are divided by the others, and pairs are compared in parts."""
    if request.param == "divided":
        monkeypatch.setattr(searching, "_AT_ONCE", 50)
        monkeypatch.setattr(searching, "_MANY", 100)
        monkeypatch.setattr(searching, "_MOST_KEPT", 20)


@pytest.mark.usefixtures("_limits")
@pytest.mark.parametrize("most", [0, 3, 6])
@pytest.mark.parametrize("make", [clusters, of_one_band, lambda: random_hashes(1), lambda: random_hashes(0)])
def test_exactly_the_near_pairs_are_found(most: int, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "NEAREST", 1 << 20)
    hashes = make()
    assert found(hashes, most) == compared_with_all(hashes, most)


def test_of_many_alike_each_keeps_the_nearest_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "NEAREST", 3)
    hashes = of_one_band()
    kept, everything = found(hashes, 6), compared_with_all(hashes, 6)
    for first in {pair[0] for pair in everything}:
        mine = sorted(distance for pair, distance in everything.items() if pair[0] == first)
        assert sorted(distance for pair, distance in kept.items() if pair[0] == first) == mine[:3]


@pytest.mark.parametrize("shared", [False, True], ids=["all different", "one band the same in all"])
def test_the_number_of_comparisons_stays_far_below_that_of_all_pairs(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = random_hashes(60_000)
    if shared:
        # as pictures with a white margin: all are candidates of each other by this band
        hashes = np.unique(hashes & np.uint64((1 << 48) - 1))
    compared = [0]
    keep = searching._Search._keep

    def counted(self, one, other, **same) -> None:
        compared[0] += len(one)
        keep(self, one, other, **same)

    monkeypatch.setattr(searching._Search, "_keep", counted)
    near_pairs(hashes, 6)
    assert compared[0] < len(hashes) ** 2 / 2 / 50


def test_a_search_ends_when_its_worker_may_not_go_on() -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        near_pairs(random_hashes(5_000), 6, stop)
