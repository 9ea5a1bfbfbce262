"""Encoders for the coarse stage: they map pictures and texts to vectors of one space.

Names are open_clip's: ``ViT-L-14-336/openai``, ``hf-hub:org/repo``, ``local-dir:/path``; those of sentence-transformers
begin with ``st:``. Safetensors weights only. torch and the libraries are imported when an embedder is first loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retllm.embedding.fusion import ITEM_IMAGE_WEIGHT, QUERY_IMAGE_WEIGHT, fuse
from retllm.embedding.info import EmbedderInfo
from retllm.embedding.sources import can_load

if TYPE_CHECKING:
    from retllm.embedding.base import Embedder
    from retllm.embedding.encoder import load_embedder

__all__ = [
    "ITEM_IMAGE_WEIGHT",
    "QUERY_IMAGE_WEIGHT",
    "Embedder",
    "EmbedderInfo",
    "can_load",
    "fuse",
    "load_embedder",
]


def __getattr__(name: str) -> Any:
    if name in ("Embedder", "load_embedder"):
        from retllm.embedding import encoder

        return getattr(encoder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
