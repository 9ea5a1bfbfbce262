"""The variants of the fine stage that are compared: the ablations of the paper and of the platform's additions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from retllm.fine import Injection
from retllm.fine.prompts import Mode
from retllm.fine.waves import Adaptive

KS = (3, 5, 7, 9)
"""Pool sizes of the paper."""
WIDE_K = 20
"""The maximum pool size of adaptive k, and the size that it is compared with."""
FUSION_WEIGHTS = (0.25, 0.5, 1.0)
"""Weights of the coarse similarity; 0 is the variant ``all``."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of the fine stage.

    Attributes:
        name: in tables.
        k: number of candidates of the fine stage; with ``adaptive``, the maximum.
        mode: how the scorer is asked.
        injection: visual re-injection.
        entropy: whether the entropy decides ties of the score; if not, the coarse rank does.
        adaptive: score in waves and stop when the best candidate is clear; None scores all k.
        fusion: weight of the coarse similarity that is added to the log-odds.
    """

    name: str
    k: int
    mode: Mode = "true_false"
    injection: Injection = field(default_factory=Injection)
    entropy: bool = True
    adaptive: Adaptive | None = None
    fusion: float = 0.0


def chosen(k: int, mode: Mode, injection: Injection) -> Variant:
    """Return the variant of a run without ablations."""
    return Variant("all", k, mode, injection)


def ablations(base: Variant, layers: int) -> list[Variant]:
    """Return all variants of ``--ablate``, the base first.

    Args:
        base: the baseline; each other variant differs from it in the point that its name says.
        layers: number of decoder layers of the scorer; the variants ``fixed`` always inject into the middle one.
    """
    off = replace(base.injection, trigger="off")
    fixed = replace(base.injection, trigger="fixed", fixed_layer=layers // 2)
    return [
        base,
        replace(base, name="entropy only", injection=off),
        replace(base, name="enhancement only", entropy=False),
        replace(base, name="neither", injection=off, entropy=False),
        *(replace(base, name=f"k={k}", k=k) for k in (*KS, WIDE_K)),
        replace(base, name="adaptive", k=WIDE_K, adaptive=Adaptive()),
        *(replace(base, name=f"fusion {weight:g}", fusion=weight) for weight in FUSION_WEIGHTS),
        *(replace(base, name=f"mode {mode}", mode=mode) for mode in _MODES if mode != base.mode),
        replace(base, name="fixed, all", injection=replace(fixed, scope="all")),
        replace(base, name="fixed, suffix", injection=replace(fixed, scope="suffix")),
    ]


_MODES: Sequence[Mode] = ("true_false", "verbalized", "choice")


def for_choices(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants that can differ on a choice between two candidates: all except those of the pool size."""
    size_names = {f"k={k}" for k in (*KS, WIDE_K)}
    return [
        replace(variant, k=2) for variant in variants if variant.adaptive is None and variant.name not in size_names
    ]
