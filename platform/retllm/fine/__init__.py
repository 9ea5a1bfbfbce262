"""The fine stage: a multimodal language model scores each candidate together with the query; the final order follows.

Works on its own: it needs no database, no server and no other part of the platform. Importing settings and plain
values is fast; torch and transformers are imported when a scorer is first used.

    scorer = load_scorer("Qwen/Qwen2.5-VL-7B-Instruct")
    scores = scorer.score(Content(text="a dog on a beach"), [Content(image=picture) for picture in pictures])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retllm.fine.abstention import Threshold, learn_threshold, no_match
from retllm.fine.content import Content, Picture
from retllm.fine.decision import Ranked, Scored, default_tie_decimals, final_order, tied
from retllm.fine.fusion import fused
from retllm.fine.injection import Injection, LayerPlan
from retllm.fine.prompts import Prompts, load_prompts
from retllm.fine.scores import PairScore, ScorerInfo
from retllm.fine.sources import ModelSource, can_load
from retllm.fine.trace import Trace
from retllm.fine.waves import Adaptive, next_wave

if TYPE_CHECKING:
    from retllm.fine.scorer import Scorer, load_scorer

__all__ = [
    "Adaptive",
    "Content",
    "Injection",
    "LayerPlan",
    "ModelSource",
    "PairScore",
    "Picture",
    "Prompts",
    "Ranked",
    "Scored",
    "Scorer",
    "ScorerInfo",
    "Threshold",
    "Trace",
    "can_load",
    "default_tie_decimals",
    "final_order",
    "fused",
    "learn_threshold",
    "load_prompts",
    "load_scorer",
    "next_wave",
    "no_match",
    "tied",
]


def __getattr__(name: str) -> Any:
    if name in ("Scorer", "load_scorer"):
        from retllm.fine import scorer

        return getattr(scorer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
