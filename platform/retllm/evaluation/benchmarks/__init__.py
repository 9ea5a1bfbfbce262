"""The benchmarks, loaded from the files that their authors publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retllm.evaluation.benchmark import Benchmark
from retllm.evaluation.benchmarks.karpathy import load_coco, load_flickr30k
from retllm.evaluation.benchmarks.mmeb import load_mmeb
from retllm.evaluation.benchmarks.scenes import make_scenes
from retllm.evaluation.benchmarks.sharegpt4v import load_sharegpt4v
from retllm.evaluation.benchmarks.sugarcrepe import load_sugarcrepe
from retllm.evaluation.benchmarks.urban1k import load_urban1k

LOADERS: dict[str, Callable[[Path], Benchmark]] = {
    "flickr30k": load_flickr30k,
    "coco": load_coco,
    "sharegpt4v": load_sharegpt4v,
    "urban1k": load_urban1k,
    "sugarcrepe": load_sugarcrepe,
    "mmeb": load_mmeb,
}
"""The loaders of the benchmarks that need a folder."""

NAMES = ("scenes", *LOADERS)

__all__ = ["LOADERS", "NAMES", "make_scenes"]
