"""Pictures, and an embedder and a scorer of colours with predictable results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from retllm.embedding import EmbedderInfo
from retllm.fine import Content, Injection, PairScore

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def write_picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), COLOURS[colour]).save(path)
    return path


def nearest_colour(image: Image.Image) -> str:
    pixel = np.array(image.getpixel((0, 0)), dtype=float)
    return min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - pixel).sum()))


class ColourEmbedder:
    """The vector of a picture is its colour; that of a text is its first colour plus noise from its words."""

    info = EmbedderInfo(name="local-dir:/models/colours", revision="1", dimension=8, preprocessing_hash="p")

    def __init__(self) -> None:
        self.pictures = 0
        self.texts = 0

    def embed_images(self, images: Sequence[Image.Image], *, query: bool = False) -> np.ndarray:
        self.pictures += len(images)
        return self._rows([(nearest_colour(image), "") for image in images])

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        self.texts += len(texts)
        return self._rows([(next((c for c in COLOURS if c in text), "white"), text) for text in texts])

    def _rows(self, wanted: list[tuple[str, str]]) -> np.ndarray:
        rows = np.zeros((len(wanted), 8), dtype=np.float32)
        for row, (colour, words) in enumerate(wanted):
            rows[row, list(COLOURS).index(colour)] = 1
            if words:
                noise = np.frombuffer(hashlib.sha256(words.encode()).digest()[:4], dtype=np.uint8) / 255
                rows[row, 4:] = 0.3 * noise
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if len(rows) else rows


class ColourScorer:
    """Scores whether a text names a picture's colour; ``calls`` and ``scored`` record the requests."""

    info = SimpleNamespace(
        model="/models/colours", revision="1", prompt_version="1", device="cpu", dtype="float32", layers=6
    )

    def __init__(self) -> None:
        self.scored: list[tuple[str, str]] = []
        self.calls = 0

    def version(self, injection: Injection, mode: str = "true_false") -> str:
        return f"{mode}-{injection.trigger}-{injection.scope}"

    def score(self, query: Content, candidates: Sequence[Content], injection=None, *, mode="true_false"):
        self.calls += 1
        return [self.pair(query, candidate, mode) for candidate in candidates]

    def pair(self, query: Content, candidate: Content, mode: str) -> PairScore:
        self.scored.append((name_of(query), name_of(candidate)))
        picture = (query.picture or candidate.picture).rgb()
        text = query.text or candidate.text
        match = nearest_colour(picture) in text
        entropy = None if mode == "verbalized" else 0.1 if match else 0.2
        return PairScore(0.9 if match else 0.1, 2.2 if match else -2.2, entropy, None, None, 10)


def name_of(content: Content) -> str:
    return content.text if content.picture is None else nearest_colour(content.picture.rgb())
