"""The coarse stage: the items that may answer a query, nearest first (method, section 2; RetLLM eq. 1).

By cosine similarity in pgvector, by the words of captions, and several such rankings as one by reciprocal rank.
"""

from retllm.coarse.captions import CaptionMatch, by_captions, count_captions
from retllm.coarse.neighbours import Neighbour, nearest, similarities
from retllm.coarse.rrf import RRF_K, Fused, reciprocal_rank_fusion

__all__ = [
    "RRF_K",
    "CaptionMatch",
    "Fused",
    "Neighbour",
    "by_captions",
    "count_captions",
    "nearest",
    "reciprocal_rank_fusion",
    "similarities",
]
