"""Form groups of near-duplicates out of pairs.

Being nearly the same is not transitive: a film can lead from any picture to any other one in small steps. So a group is
formed around one picture, to which all others of the group are near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from retllm.duplicates.hashes import near_pairs

HASH_DISTANCE = 6
"""Two pictures are nearly the same if their hashes differ in so many bits at most."""
SIMILARITY = 0.96
"""Or if the cosine similarity of their vectors is at least that, and their hashes differ in ``SIMILAR_DISTANCE``."""
SIMILAR_DISTANCE = 18
LARGEST = 50
"""More pictures than that are shown as several groups."""


class Member(NamedTuple):
    """A picture of a group by its place, with how its hash differs from that of the centre, and their similarity."""

    place: int
    distance: int
    similarity: float | None


class Similar(NamedTuple):
    """Two pictures by their places, with the cosine similarity of their vectors."""

    first: int
    second: int
    similarity: float


@dataclass
class _Node:
    """Pictures of one hash, which are alike to all others. One that was dismissed with others is a node of its own."""

    places: list[int] = field(default_factory=list)
    dismissals: frozenset[UUID] = frozenset()
    near: dict[int, tuple[int, float | None]] = field(default_factory=dict)


def form_groups(
    hashes: NDArray[np.uint64],
    similar: Iterable[Similar],
    dismissed: Mapping[int, frozenset[UUID]],
    check: Callable[[], None] = lambda: None,
) -> list[list[Member]]:
    """Return the groups, the largest first; a picture is in at most one.

    Args:
        hashes: of all pictures, 0 for those that have none, which are in no group.
        similar: the pairs whose vectors are near.
        dismissed: by the place of a picture, what it was dismissed with: two with one in common are no duplicates.
        check: called now and then; what it raises ends it.
    """
    shown = np.flatnonzero(hashes)
    unique, of_place, counts = np.unique(hashes[shown], return_inverse=True, return_counts=True)
    pairs = near_pairs(unique, HASH_DISTANCE, check)
    nearest = [pair for pair in similar if _is_near(hashes, pair)]
    # most pictures are like no other one, and need no node
    used = counts > 1
    used[pairs.first] = used[pairs.second] = True
    used[np.searchsorted(unique, hashes[[place for pair in nearest for place in (pair.first, pair.second)]])] = True
    nodes, of_hash = _nodes(shown[used[of_place]].tolist(), hashes, dismissed)
    for one, other, distance in zip(*(part.tolist() for part in pairs), strict=True):
        for first, second in product(of_hash[int(unique[one])], of_hash[int(unique[other])]):
            _link(nodes, first, second, distance, None)
    node_of = {place: number for number, node in enumerate(nodes) for place in node.places}
    for pair in nearest:
        distance = _distance(hashes, pair.first, pair.second)
        _link(nodes, node_of[pair.first], node_of[pair.second], distance, pair.similarity)
    groups = [part for members in _around(nodes) for part in _parts(members)]
    return sorted(groups, key=lambda group: (-len(group), group[0].place))


def _distance(hashes: NDArray[np.uint64], first: int, second: int) -> int:
    return (int(hashes[first]) ^ int(hashes[second])).bit_count()


def _is_near(hashes: NDArray[np.uint64], pair: Similar) -> bool:
    has_both = hashes[pair.first] and hashes[pair.second]
    return bool(has_both) and _distance(hashes, pair.first, pair.second) <= SIMILAR_DISTANCE


def _nodes(
    places: Iterable[int], hashes: NDArray[np.uint64], dismissed: Mapping[int, frozenset[UUID]]
) -> tuple[list[_Node], dict[int, list[int]]]:
    """Return the nodes of these pictures, those of one hash linked with each other, and the nodes of each hash."""
    nodes: list[_Node] = []
    of_hash: dict[int, list[int]] = {}
    plain: dict[int, _Node] = {}
    for place in places:
        number = int(hashes[place])
        node = None if place in dismissed else plain.get(number)
        if node is None:
            node = _Node(dismissals=dismissed.get(place, frozenset()))
            of_hash.setdefault(number, []).append(len(nodes))
            nodes.append(node)
            if place not in dismissed:
                plain[number] = node
        node.places.append(place)
    for same in of_hash.values():
        for first, second in combinations(same, 2):
            _link(nodes, first, second, 0, None)
    return nodes, of_hash


def _link(nodes: Sequence[_Node], first: int, second: int, distance: int, similarity: float | None) -> None:
    if first == second or nodes[first].dismissals & nodes[second].dismissals:
        return
    known = nodes[first].near.get(second, (distance, None))[1]
    link = distance, max(filter(None, (known, similarity)), default=None)
    nodes[first].near[second] = nodes[second].near[first] = link


def _around(nodes: Sequence[_Node]) -> Iterator[list[Member]]:
    """Yield the members of each group; the one that it is formed around first, then the nearest."""
    # those that are near to the most pictures first
    reach = [len(node.places) + sum(len(nodes[other].places) for other in node.near) for node in nodes]
    taken: set[int] = set()
    for centre in sorted(range(len(nodes)), key=lambda number: (-reach[number], nodes[number].places[0])):
        if centre in taken or reach[centre] < 2:
            continue
        others = {other: link for other, link in nodes[centre].near.items() if other not in taken}
        members = [Member(place, 0, None) for place in nodes[centre].places]
        for other, (distance, similarity) in others.items():
            members += (Member(place, distance, similarity) for place in nodes[other].places)
        if len(members) > 1:
            taken |= {centre, *others}
            yield [members[0], *sorted(members[1:], key=lambda member: (member.distance, member.place))]


def _parts(members: list[Member]) -> Iterator[list[Member]]:
    """Divide a large group; no part has a single picture."""
    count = -(-len(members) // LARGEST)
    size, more = divmod(len(members), count)
    start = 0
    for number in range(count):
        end = start + size + (number < more)
        yield members[start:end]
        start = end
