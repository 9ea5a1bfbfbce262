"""``retllm bench fine --concurrent``: many searches at once through the whole platform, beside its scorer alone."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from retllm.bench.client import Client, running
from retllm.bench.fine import captions, pictures
from retllm.db.jobs import Job
from retllm.db.searches import Candidate, Search
from retllm.db.tables import Item
from retllm.fine import Content, Injection, Scorer
from retllm.search.request import InjectionRequest
from retllm.settings import Settings

_PROCESSES = frozenset({"postgres", "redis", "migrate", "web", "dispatch", "media", "embed", "score"})
_PICTURES = 4  # for each candidate of a search
_PICTURES_PER_REQUEST = 32
_TIMEOUT_SECONDS = 300.0
_SECONDS_PER_PAIR = 30.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """What a stack scored.

    Attributes:
        seconds: from the first request until the last search was over, by the server's clock.
        search_seconds: of each search, from its submission until its end.
        pairs: query and file name of the candidate, by search and coarse rank.
        processor_seconds: processor time that each process of the stack, and the client, used for them.
    """

    seconds: float
    search_seconds: tuple[float, ...]
    pairs: tuple[tuple[str, str], ...]
    processor_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class ConcurrentSpeed:
    """The result of one run.

    Attributes:
        searches, k: how many searches there were at once, and the candidates of each.
        platform: pairs a second of all searches at once.
        one_by_one: pairs a second of searches that wait for each other.
        scorer: pairs a second of the scorer alone with the pairs that the platform scored at once, in one call, with
            caches as they were there.
        median_seconds, slowest_seconds: of a search among many.
        processor_ms: processor time of a pair of the searches at once, by process; that of the scorer alone is
            ``scorer alone``.
    """

    searches: int
    k: int
    platform: float
    one_by_one: float
    scorer: float
    median_seconds: float
    slowest_seconds: float
    processor_ms: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the result as a JSON object, with the ratio of each rate to that of the scorer alone."""
        rates = {"scorer": self.scorer, "platform": self.platform, "one_by_one": self.one_by_one}
        return {
            "searches": self.searches,
            "k": self.k,
            "median_seconds": round(self.median_seconds, 3),
            "slowest_seconds": round(self.slowest_seconds, 3),
            "processor_ms": {
                name: round(ms, 1) for name, ms in sorted(self.processor_ms.items(), key=lambda one: -one[1])
            },
            "rates": {
                name: {"pairs_per_second": round(rate, 3), "of_scorer": round(rate / self.scorer, 3)}
                for name, rate in rates.items()
            },
        }


def measure_concurrent(
    home: Path,
    settings: Settings,
    load: Callable[[], Scorer],
    searches: int,
    k: int,
    side: int,
    injection: Injection,
    notify: Callable[[str], None],
) -> ConcurrentSpeed:
    """Measure a separate stack in ``home`` with new pictures, then its scorer alone.

    Args:
        home: an empty folder.
        settings: of models and devices.
        load: loads the scorer of ``settings``; called after the stack was stopped, which frees the device.
        searches: number of searches at once; half as many are measured one by one.
        k: candidates of a search.
        side: edge of the pictures in pixels.
        injection: settings of re-injection of every search.
        notify: called with a short description of each step.

    Raises:
        StackError: a process can't be started, or a search fails or takes too long.
    """
    shown = {f"{number:04}.png": picture for number, picture in enumerate(pictures(_PICTURES * k, side, 7))}
    texts = captions(searches + (alone := max(1, searches // 2)) + 1, 77)
    with running(home / "stack", settings, _PROCESSES, notify) as client:
        collection = _collection(client, home / "pictures", shown)
        notify("warming up")
        first = _searched(client, collection, texts[:1], k, injection)
        notify(f"{alone} searches one by one")
        slow = [_searched(client, collection, [text], k, injection) for text in texts[1 : 1 + alone]]
        notify(f"{searches} searches at once")
        found = _searched(client, collection, texts[1 + alone :], k, injection)
    notify("the scorer alone")
    earlier = [pair for one in (first, *slow) for pair in one.pairs]
    rate, alone_seconds = _scorer_alone(load(), shown, earlier, found.pairs, injection)
    spent = {**found.processor_seconds, "scorer alone": alone_seconds}
    return ConcurrentSpeed(
        searches,
        k,
        len(found.pairs) / found.seconds,
        sum(len(one.pairs) for one in slow) / sum(one.seconds for one in slow),
        rate,
        statistics.median(found.search_seconds),
        max(found.search_seconds),
        {name: 1000 * seconds / len(found.pairs) for name, seconds in spent.items()},
    )


def _collection(client: Client, folder: Path, shown: Mapping[str, Image.Image]) -> str:
    """Return a new collection with these pictures, indexed."""
    folder.mkdir(parents=True)
    for name, picture in shown.items():
        picture.save(folder / name)
    collection, paths = client.collection(), sorted(folder.iterdir())
    for at in range(0, len(paths), _PICTURES_PER_REQUEST):
        client.upload(collection, paths[at : at + _PICTURES_PER_REQUEST], index=False)
    client.call("POST", f"/collections/{collection}/index", json={})
    client.await_jobs(collection, _TIMEOUT_SECONDS)
    return collection


def _searched(client: Client, collection: str, texts: Sequence[str], k: int, injection: Injection) -> Pairs:
    """Submit searches, and wait until all are over."""
    asked = {name: value for name, value in injection.as_json().items() if name in InjectionRequest.model_fields}
    body = {"k": k, "injection": asked, "adaptive": False}
    path = f"/collections/{collection}/searches"
    before = client.processor_seconds()
    jobs = [uuid.UUID(client.call("POST", path, json={"text": text, **body})["id"]) for text in texts]
    client.await_jobs(collection, _TIMEOUT_SECONDS + _SECONDS_PER_PAIR * k * len(texts))
    used = {name: spent - before.get(name, 0) for name, spent in client.processor_seconds().items()}
    with client.sessions() as session:
        rows = session.execute(sa.select(Job.created_at, Job.finished_at).where(Job.id.in_(jobs)))
        times = [(begin, end) for begin, end in rows if end is not None]
        pairs = session.execute(
            sa.select(Search.query_text, Item.name)
            .join(Candidate, Candidate.search_id == Search.id)
            .join(Item, Item.id == Candidate.item_id)
            .where(Search.id.in_(jobs))
            .order_by(Search.id, Candidate.coarse_rank)
        )
        found = tuple((str(text), str(name)) for text, name in pairs)
    seconds = (max(end for _, end in times) - min(begin for begin, _ in times)).total_seconds()
    return Pairs(seconds, tuple((end - begin).total_seconds() for begin, end in times), found, used)


def _scorer_alone(
    scorer: Scorer,
    shown: Mapping[str, Image.Image],
    earlier: Sequence[tuple[str, str]],
    pairs: Sequence[tuple[str, str]],
    injection: Injection,
) -> tuple[float, float]:
    """Score pairs in one call, after the pairs that the platform scored before.

    Returns:
        Pairs a second, and the processor time of all of them in seconds.
    """
    candidates = {name: Content(image=picture) for name, picture in shown.items()}
    before, asked = ([(Content(text=text), candidates[name]) for text, name in some] for some in (earlier, pairs))
    scorer.score_pairs(before, injection)
    began, spent = time.perf_counter(), time.process_time()
    scorer.score_pairs(asked, injection)
    return len(asked) / (time.perf_counter() - began), time.process_time() - spent
