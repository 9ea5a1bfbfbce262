"""The description of an embedder, without the libraries that load one."""

from __future__ import annotations

from dataclasses import dataclass


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
