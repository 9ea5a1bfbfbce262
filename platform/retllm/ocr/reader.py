"""Read the text in a picture, on the CPU, with models that come with the package ``rapidocr``."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from retllm.errors import ModelUnavailable
from retllm.media.normalization import composed
from retllm.settings import Settings

INSTALL = "pip install 'retllm-platform[ocr]'"
"""What makes the text in pictures readable."""
SIDE = 2000
"""Pictures are read with at most so many pixels at their longer side."""
LEAST_CONFIDENCE = 0.5
"""Lines of which the recognizer is less sure, from 0 to 1, are left out."""
# shorter sides have no letters
_LEAST_SIDE = 8
_PACKAGES = ("rapidocr", "onnxruntime")


@dataclass(frozen=True, slots=True)
class PictureText:
    """The text in a picture: a line for each that was recognized, from top to bottom, empty if there is none.

    ``confidence`` is the mean of the lines, from 0 to 1; None if there are none.
    """

    text: str
    confidence: float | None


NO_TEXT = PictureText("", None)


class Reader:
    """Reads the text in pictures; its models are loaded once. Thread-safe: it reads one picture at a time.

    Args:
        threads: of the CPU, for one picture.

    Raises:
        ModelUnavailable: the packages are not installed here; the message says what to do.
    """

    def __init__(self, threads: int) -> None:
        self._engine = _load(threads)
        self._lock = threading.Lock()

    def read(self, picture: Image.Image, max_chars: int) -> PictureText:
        """Return the text in a picture (RGB), at most so many characters of it.

        Characters are composed (NFC), as those of captions.
        """
        if min(picture.size) < _LEAST_SIDE:
            return NO_TEXT
        if max(picture.size) > SIDE:
            picture = picture.copy()
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2)
        # the models know pictures as OpenCV has them: blue first
        pixels = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        with self._lock:
            found = self._engine(pixels)
        return _joined(found.txts or (), found.scores or (), max_chars)


def _joined(texts: Sequence[str], scores: Sequence[float], max_chars: int) -> PictureText:
    """Join the lines that are not empty."""
    lines = [(text, float(score)) for raw, score in zip(texts, scores, strict=False) if (text := _clean(raw))]
    if not lines:
        return NO_TEXT
    return PictureText("\n".join(text for text, _ in lines)[:max_chars].rstrip(), sum(s for _, s in lines) / len(lines))


def _clean(text: str) -> str:
    return composed(" ".join(text.replace("\0", "").split()))


def is_installed() -> bool:
    """Return whether this Python has the packages that read text; nothing is loaded."""
    return all(find_spec(name) is not None for name in _PACKAGES)


def require_installed() -> None:
    """Require the packages that read text.

    Raises:
        ModelUnavailable: they are not there.
    """
    if not is_installed():
        raise ModelUnavailable(
            f"The text in pictures can't be read here: run {INSTALL} where the media workers run, start these again, "
            "and retry the job."
        )


def reader_of(settings: Settings) -> Reader:
    """Return the reader of this process, loaded at first use.

    Raises:
        ModelUnavailable: see :class:`Reader`.
    """
    return _reader(settings.ocr_threads or max(1, (os.cpu_count() or 1) // max(1, settings.media_workers)))


@lru_cache(maxsize=1)
def _reader(threads: int) -> Reader:
    return Reader(threads)


def _load(threads: int) -> Any:
    require_installed()
    try:
        import cv2
        from rapidocr import RapidOCR
    except ImportError as error:
        # OpenCV needs libraries of the system
        raise ModelUnavailable(f"The packages that read text in pictures can't be loaded here: {error}.") from error
    cv2.setNumThreads(threads)
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.text_score": LEAST_CONFIDENCE,
            "Global.max_side_len": SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
