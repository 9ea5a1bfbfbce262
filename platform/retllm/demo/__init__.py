"""The demo world: procedural scenes, their captions, and the two small models that were trained on them.

Nothing here is needed for searching real pictures. It lets the whole platform run, be tested and be shown where
no model hub can be reached.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["models_dir"]


def models_dir() -> Path:
    """The folder that holds the two shipped models: ``clip/`` (open_clip) and ``mllm/`` (transformers)."""
    return Path(__file__).resolve().parent / "models"
