"""Stand-in models with predictable results, and functions that run jobs with them without worker processes."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import numpy as np
from PIL import Image

from retllm.db.enums import Stage, UnitState
from retllm.db.session import transaction
from retllm.embedding import EmbedderInfo
from retllm.fine import Content, Injection, PairScore, Picture, ScorerInfo
from retllm.fine.prompts import Mode
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import embed_unit
from retllm.queue.worker import LastStep, LeasedUnit, WorkerContext, run_unit
from retllm.search import fine_worker
from retllm.search.coarse_worker import coarse_unit
from retllm.search.request import SearchRequest
from retllm.search.submit import StoredPicture, submit_search
from retllm.search.views import search_view


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> io.BytesIO:
    """Return a picture of one colour as a file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    file.seek(0)
    return file


class FakeEmbedder:
    """An embedder with predictable vectors: the words of a text, or the mean colour of a picture."""

    info = EmbedderInfo(name="local-dir:/models/embedder", revision="r1", dimension=32, preprocessing_hash="p1")
    least_side = 8

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        rows = np.full((len(texts), 32), 1e-3, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row[zlib.crc32(word.encode()) % 29] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def prepare(self, picture: Image.Image) -> Image.Image:
        return picture

    def embed_prepared(self, prepared: Sequence[Image.Image]) -> np.ndarray:
        return self.embed_images(prepared)

    def embed_images(self, pictures: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
        rows = np.zeros((len(pictures), 32), dtype=np.float32)
        for row, picture in zip(rows, pictures, strict=True):
            row[29:] = np.asarray(picture.convert("RGB")).mean(axis=(0, 1)) + 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class Trace:
    """Takes the place of a trace."""

    of: str

    def as_json(self) -> dict[str, Any]:
        return {"of": self.of}


class FakeScorer:
    """A scorer that returns for each candidate the score and the entropy that ``answer`` returns.

    A score of None is an answer without a score. In the mode ``verbalized`` the entropy is always None. ``remark``
    returns the remark on a pair.
    """

    info = ScorerInfo(
        model="scorer",
        revision="s1",
        prompt_version="1",
        device="cpu",
        dtype="float32",
        layers=6,
        picture_tokens=1024,
    )

    least_pixels = 0
    pairs_at_once = 16

    def __init__(
        self,
        answer: Callable[[Content], tuple[float | None, float | None]],
        version: str = "v1",
        remark: Callable[[Content], str | None] = lambda _: None,
    ) -> None:
        self._answer = answer
        self._remark = remark
        self._version = version
        self.asked: list[Content] = []
        self.modes: list[Mode] = []

    @property
    def texts(self) -> list[str | None]:
        """The texts of the scored candidates, in the order of the requests."""
        return [content.text for content in self.asked]

    def refresh(self) -> None:
        pass

    def prepares(self, picture: Picture) -> bool:
        return False

    def prepare(self, picture: Picture) -> None:
        return None

    def version(self, injection: Injection, mode: Mode = "true_false") -> str:
        return f"{self._version}:{injection.alpha}" + ("" if mode == "true_false" else f":{mode}")

    def score(
        self,
        query: Content,
        candidates: Sequence[Content],
        injection: Injection,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        self.asked.extend(candidates)
        self.modes.extend([mode] * len(candidates))
        return [self._score(candidate, mode, trace) for candidate in candidates]

    def score_pairs(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        found: list[PairScore] = []
        for query, some in groupby(pairs, key=itemgetter(0)):
            candidates = [candidate for _, candidate in some]
            found += self.score(query, candidates, injection, mode=mode, trace=trace)
        return found

    def score_each(self, *arguments: Any, **ways: Any) -> Sequence[PairScore | Exception]:
        return self.score_pairs(*arguments, **ways)

    def _score(self, candidate: Content, mode: Mode, trace: bool) -> PairScore:
        score, entropy = self._answer(candidate)
        kept = Trace(candidate.text or "") if trace else None
        if score is None:
            return PairScore(None, None, None, None, None, 40, "It wrote no number.", trace=kept)
        entropy = None if mode == "verbalized" else entropy
        remark = self._remark(candidate)
        return PairScore(score, math.log(score / (1 - score)), entropy, 2, 0.8, 40, remark=remark, trace=kept)


class SilentNotifier:
    """A notifier without workers; the tests run the units themselves."""

    def notify(self, units) -> int:
        return len(list(units))


def fine_unit(context: WorkerContext, held: LeasedUnit, scorer: Any) -> LastStep:
    """Do a unit of the fine stage alone, and return its last step."""
    (result,) = fine_worker.fine_units(context, [held], scorer)
    if isinstance(result, Exception):
        raise result
    assert callable(result)
    return result


def run(
    context: WorkerContext,
    world,
    job_id: UUID,
    scorer: object | None = None,
    embedders: Callable[[str], Any] | None = None,
) -> None:
    """Run the ready units of a job until there is none; every embedder is a ``FakeEmbedder`` by default."""
    embedders = embedders or (lambda _: FakeEmbedder())

    def do_unit(context: WorkerContext, held: LeasedUnit):
        if held.claim.stage is Stage.EMBED:
            return embed_unit(context, held, embedders)
        if held.claim.stage is Stage.COARSE:
            return coarse_unit(context, held, embedders)
        return fine_unit(context, held, scorer)

    while ready := [unit for unit in world.units(job_id) if unit.state is UnitState.READY]:
        for unit in ready:
            assert run_unit(context, unit.id, do_unit)


def index(context: WorkerContext, world, embedders: Callable[[str], Any] | None = None) -> UUID:
    with transaction(world.sessions) as session:
        job = submit_index(session, world.user, world.collection_id, world.settings).job
    run(context, world, job.id, embedders=embedders)
    return job.id


def search(world, picture: StoredPicture | None = None, **fields: object) -> UUID:
    with transaction(world.sessions) as session:
        request = SearchRequest(**fields)
        return submit_search(session, world.user, world.collection_id, request, world.settings, picture=picture).job.id


def view_of(world, search_id: UUID):
    with world.sessions() as session:
        return search_view(session, search_id, world.settings, actor=world.user)
