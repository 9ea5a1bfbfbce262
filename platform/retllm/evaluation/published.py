"""The figures that the paper publishes for itself and for other methods (RetLLM, arXiv 2602.22278, tables 1 to 4).

Recall@1 in percent, for MMEB Precision@1. RetLLM: Qwen2.5-VL-7B, CLIP ViT-L/14@336, k = 5, alpha = 0.3.
"""

from __future__ import annotations

from collections.abc import Mapping

_BOTH = ("i2t", "t2i")


def _pairs(**figures: tuple[float, float]) -> dict[tuple[str, str], float]:
    return {(name, way): value for name, values in figures.items() for way, value in zip(_BOTH, values, strict=True)}


METHODS: Mapping[str, Mapping[tuple[str, str], float]] = {
    "CLIP ViT-L": _pairs(flickr30k=(87.2, 67.3), coco=(58.1, 37.0), sharegpt4v=(81.8, 84.0), urban1k=(47.0, 47.0)),
    "E5-V": _pairs(flickr30k=(88.7, 79.5), coco=(62.0, 52.0), sharegpt4v=(85.1, 82.1), urban1k=(88.9, 83.2)),
    "UniME": _pairs(flickr30k=(93.4, 81.9), coco=(70.1, 53.7), sharegpt4v=(97.2, 93.9), urban1k=(95.9, 95.2)),
    "RetLLM": {
        **_pairs(flickr30k=(94.5, 82.0), coco=(70.4, 54.1), sharegpt4v=(97.6, 94.2), urban1k=(88.9, 78.6)),
        ("mmeb", "datasets"): 54.2,
    },
}
"""The figure of each method on each (benchmark, section)."""

GROUPS: Mapping[str, Mapping[tuple[str, str], float]] = {
    "CLIP ViT-L": {("sugarcrepe", "replace"): 79.5, ("sugarcrepe", "swap"): 62.7, ("sugarcrepe", "add"): 74.9},
    "E5-V": {("sugarcrepe", "replace"): 86.3, ("sugarcrepe", "swap"): 67.6, ("sugarcrepe", "add"): 76.9},
    "UniME": {("sugarcrepe", "replace"): 89.0, ("sugarcrepe", "swap"): 77.6, ("sugarcrepe", "add"): 94.4},
    "RetLLM": {
        ("sugarcrepe", "replace"): 94.8, ("sugarcrepe", "swap"): 92.7, ("sugarcrepe", "add"): 96.2,
        ("mmeb", "classification"): 60.3, ("mmeb", "vqa"): 27.8, ("mmeb", "retrieval"): 62.4,
        ("mmeb", "grounding"): 60.2,
    },
}  # fmt: skip
"""The same for (benchmark, group of parts)."""

ABLATION: Mapping[str, Mapping[tuple[str, str], float]] = {
    "all": _pairs(flickr30k=(94.5, 81.8), coco=(69.2, 52.1)),
    "entropy only": _pairs(flickr30k=(94.0, 81.2), coco=(68.7, 50.8)),
    "enhancement only": _pairs(flickr30k=(94.0, 80.7), coco=(68.8, 51.5)),
    "neither": _pairs(flickr30k=(93.6, 80.2), coco=(66.9, 50.3)),
}
"""The paper's ablation by variant; its run of ``all`` is not that of the main table."""

OUR_METHOD = "RetLLM"


def of_variant(benchmark: str, section: str, variant: str, *, ablated: bool) -> float | None:
    """Return the paper's figure for a variant as a share; None if there is none.

    Args:
        benchmark, section: of the measurement.
        variant: its name.
        ablated: whether it is part of an ablation, for which the paper has figures of a separate run.
    """
    rows = ABLATION.get(variant, {}) if ablated else {}
    found = rows.get((benchmark, section))
    if found is None and variant == "all":
        found = METHODS[OUR_METHOD].get((benchmark, section))
    return None if found is None else round(found / 100, 4)


def of_methods(benchmark: str, section: str) -> dict[str, float]:
    """Return the figure of every published method as a share."""
    return {
        method: round(figures[benchmark, section] / 100, 4)
        for method, figures in METHODS.items()
        if (benchmark, section) in figures
    }


def of_group(benchmark: str, group: str) -> dict[str, float]:
    """Return the figure of every published method for a group of parts, as a share."""
    return {
        method: round(figures[benchmark, group] / 100, 4)
        for method, figures in GROUPS.items()
        if (benchmark, group) in figures
    }
