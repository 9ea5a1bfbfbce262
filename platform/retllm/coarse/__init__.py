"""The coarse stage: the k nearest items by cosine similarity (method, section 2; RetLLM eq. 1)."""

from retllm.coarse.neighbours import Neighbour, nearest

__all__ = ["Neighbour", "nearest"]
