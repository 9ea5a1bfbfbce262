"""The description of an embedder, without the libraries that load one."""

from __future__ import annotations

from dataclasses import dataclass

from retllm.errors import InvalidInput
from retllm.settings import Settings


@dataclass(frozen=True, slots=True)
class EmbedderInfo:
    """Description of an embedder; vectors of different embedders can't be compared.

    Attributes:
        name: as requested.
        revision: the hub's commit, or a hash of the folder's contents.
        dimension: of its vectors.
        preprocessing_hash: changes with every change of the preprocessing of pictures and texts.
    """

    name: str
    revision: str
    dimension: int
    preprocessing_hash: str


def not_configured(name: str, settings: Settings, *, field: str) -> InvalidInput:
    """Return the error for the public name of an embedder that is not configured."""
    return InvalidInput(
        f"{name} is not a configured embedder ({', '.join(settings.embedders)}). Add it to RETLLM_EXTRA_EMBEDDERS and "
        "restart the web server and the workers.",
        field=field,
    )
