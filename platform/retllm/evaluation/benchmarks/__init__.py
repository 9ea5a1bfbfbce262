"""The benchmarks, each read from the files that its authors publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retllm.evaluation.benchmark import Benchmark
from retllm.evaluation.benchmarks.karpathy import coco, flickr30k
from retllm.evaluation.benchmarks.mmeb import mmeb
from retllm.evaluation.benchmarks.scenes import scenes
from retllm.evaluation.benchmarks.sharegpt4v import sharegpt4v
from retllm.evaluation.benchmarks.sugarcrepe import sugarcrepe
from retllm.evaluation.benchmarks.urban1k import urban1k

LOADERS: dict[str, Callable[[Path], Benchmark]] = {
    "flickr30k": flickr30k,
    "coco": coco,
    "sharegpt4v": sharegpt4v,
    "urban1k": urban1k,
    "sugarcrepe": sugarcrepe,
    "mmeb": mmeb,
}
"""The benchmarks that need a folder."""

NAMES = ("scenes", *LOADERS)

__all__ = ["LOADERS", "NAMES", "scenes"]
