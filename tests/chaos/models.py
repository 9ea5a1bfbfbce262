"""Fast deterministic models in place of the real ones, and a picture that crashes its worker."""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from tests.chaos import crash

from retllm.embedding import EmbedderInfo
from retllm.errors import ServerAway
from retllm.fine import Content, Injection, PairScore, Picture, ScorerInfo
from retllm.fine.prompts import Mode

EMBEDDER = "local-dir:/models/chaos"
SCORER = "/models/chaos-scorer"
DIMENSION = 16
# the share of calls in which the server of the scorer goes away
_AWAY = 0.1
CRASH_COLOUR = (255, 0, 255)
"""A picture of this colour crashes the process that embeds it, as a bug in a decoder would."""


def pause() -> None:
    """Work for a while; a crash may be ordered for that moment."""
    time.sleep(float(os.environ.get("CHAOS_PAUSE", "0.05")))
    crash.reach("work")


def _vector(content: bytes) -> np.ndarray:
    digest = hashlib.blake2b(content, digest_size=DIMENSION * 4).digest()
    vector = np.frombuffer(digest, dtype=np.uint32).astype(np.float32) / 2**32 - 0.5
    return vector / np.linalg.norm(vector)


class Encoder:
    """An embedder whose vectors are made from a hash of the content."""

    info = EmbedderInfo(name=EMBEDDER, revision="1", dimension=DIMENSION, preprocessing_hash="1")
    least_side = 8

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        pause()
        return np.stack([_vector(text.encode()) for text in texts])

    def prepare(self, picture: Image.Image) -> Image.Image:
        return picture

    def embed_prepared(self, prepared: Sequence[Image.Image]) -> np.ndarray:
        return self.embed_images(prepared)

    def embed_images(self, pictures: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
        pause()
        rows = []
        for picture in pictures:
            pixels = picture.convert("RGB")
            if pixels.getpixel((0, 0)) == CRASH_COLOUR:
                os._exit(139)
            rows.append(_vector(pixels.tobytes()))
        return np.stack(rows)


class Scorer:
    """A scorer whose scores are made from a hash of the pair."""

    least_pixels = 0
    pairs_at_once = 12

    info = ScorerInfo(
        model="chaos-scorer",
        revision="1",
        prompt_version="1",
        device="cpu",
        dtype="float32",
        layers=2,
        picture_tokens=1024,
    )

    def refresh(self) -> None:
        pass

    def version(self, injection: Injection, mode: Mode = "true_false") -> str:
        return f"chaos:{mode}"

    def prepares(self, picture: Picture) -> bool:
        return False

    def prepare(self, picture: Picture) -> None:
        return None

    def score_pairs(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        pause()
        return [self._score(*pair) for pair in pairs]

    def score_each(
        self, pairs: Sequence[tuple[Content, Content]], *arguments: Any, **ways: Any
    ) -> list[PairScore | Exception]:
        """Score the pairs; in some calls the server goes away after some of them, as one of a remote scorer may."""
        scores: list[PairScore | Exception] = [*self.score_pairs(pairs, *arguments, **ways)]
        if random.random() < _AWAY:
            answered = random.randrange(len(pairs))
            scores[answered:] = [ServerAway("The server of the scorer is away.")] * (len(pairs) - answered)
        return scores

    def _score(self, query: Content, candidate: Content) -> PairScore:
        content = f"{query.text}\0{candidate.text}\0{candidate.picture.key if candidate.picture else ''}"
        score = (int.from_bytes(hashlib.blake2b(content.encode(), digest_size=4).digest()) + 1) / (2**32 + 2)
        return PairScore(score, math.log(score / (1 - score)), 0.5, None, None, 10)
