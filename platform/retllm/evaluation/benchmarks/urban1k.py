"""Urban1k: 1,000 street scenes with long captions (Long-CLIP, arXiv 2403.15378)."""

from __future__ import annotations

from pathlib import Path

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmark import Benchmark
from retllm.evaluation.benchmarks import files
from retllm.evaluation.benchmarks.karpathy import both_directions

_ADVICE = "Urban1k.zip is published at https://huggingface.co/datasets/BeichenZhang/Urban1k; unpack all of it."


def load_urban1k(data: Path) -> Benchmark:
    """Load the pictures ``image/<n>.jpg`` and their captions ``caption/<n>.txt``.

    Args:
        data: the folder with both folders, directly or in ``Urban1k``.

    Raises:
        BenchmarkUnreadable: a file is missing or empty.
    """
    captions = files.find_folder(data, ["caption", "Urban1k/caption"], _ADVICE)
    texts = sorted(captions.glob("*.txt"), key=lambda path: (len(path.stem), path.stem))
    if not texts:
        raise BenchmarkUnreadable(f"{captions} has no .txt files. {_ADVICE}", file=str(captions))
    images = captions.parent / "image"
    pictures = [images / f"{path.stem}.jpg" for path in texts]
    files.check_pictures(pictures, _ADVICE)
    return Benchmark(
        "urban1k", both_directions([(path, path.name) for path in pictures], [[_caption(path)] for path in texts])
    )


def _caption(path: Path) -> str:
    """Return the caption, the first line of the file."""
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
    except (OSError, ValueError) as error:
        raise BenchmarkUnreadable(f"{path} can't be read ({error}). {_ADVICE}", file=str(path)) from error
    if not lines:
        raise BenchmarkUnreadable(f"{path} is empty. {_ADVICE}", file=str(path))
    return lines[0].strip()
