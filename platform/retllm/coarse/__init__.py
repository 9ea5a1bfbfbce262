"""The coarse stage: the k nearest items by cosine similarity (method, section 2; RetLLM eq. 1)."""

from retllm.coarse.nearest import Neighbour, nearest

__all__ = ["Neighbour", "nearest"]
