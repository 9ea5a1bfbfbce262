"""The description of an embedder, without the libraries that load one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retllm.errors import InvalidInput, ModelUnsuited
from retllm.settings import Settings, public_name

MAX_DIMENSION = 4000
"""Most dimensions that the database can index (pgvector's HNSW on halfvec)."""


@dataclass(frozen=True, slots=True)
class EmbedderInfo:
    """Description of an embedder; vectors of different embedders can't be compared.

    Attributes:
        name: as requested.
        revision: the hub's commit, or a hash of the folder's contents.
        dimension: of its vectors.
        preprocessing_hash: changes with every change of the preprocessing of pictures and texts.
        pictures, texts: whether it takes pictures and texts.
        asymmetric: whether it embeds a query in another way than an item.
    """

    name: str
    revision: str
    dimension: int
    preprocessing_hash: str
    pictures: bool = True
    texts: bool = True
    asymmetric: bool = False

    def refusal(self, what: str, *, picture: bool, text: bool) -> InvalidInput | None:
        """Return why something can't be embedded; None if it can.

        Args:
            what: "query" or "item".
            picture, text: whether it has a picture and a text.
        """
        if (picture and self.pictures) or (text and self.texts):
            return None
        takes, missing = ("texts", "a text") if self.texts else ("pictures", "a picture")
        return InvalidInput(
            f"The embedder {public_name(self.name)} takes only {takes}, and this {what} has none. Give it {missing}, "
            "or use an embedder that takes both pictures and texts.",
            field="content",
        )


def checked_dimension(name: str, dimension: int) -> int:
    """Return the dimension of a model's vectors.

    Raises:
        ModelUnsuited: the database can't index so many.
    """
    if dimension > MAX_DIMENSION:
        raise ModelUnsuited(
            f"The vectors of {name} have {dimension:,} dimensions, but at most {MAX_DIMENSION:,} can be indexed. If "
            "the model was trained for shorter vectors too (Matryoshka), name their length: st:ORG/REPO#1024.",
            model=name,
        )
    return dimension


def hash_of(settings: Mapping[str, Any]) -> str:
    """Return the hash of settings for :attr:`EmbedderInfo.preprocessing_hash`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode()).hexdigest()[:16]


def not_configured(name: str, settings: Settings, *, field: str) -> InvalidInput:
    """Return the error for the public name of an embedder that is not configured."""
    return InvalidInput(
        f"{name} is not a configured embedder ({', '.join(settings.embedders)}). Add it to RETLLM_EXTRA_EMBEDDERS and "
        "restart the web server and the workers.",
        field=field,
    )
