"""Demo data: procedural scenes, their captions, and two small models trained on them.

Searches over real pictures need nothing of this. It allows running, testing and demonstrating the whole platform
without access to a model hub.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["models_dir"]


def models_dir() -> Path:
    """Return the folder of the two shipped models: ``clip/`` (open_clip) and ``mllm/`` (transformers)."""
    return Path(__file__).resolve().parent / "models"
