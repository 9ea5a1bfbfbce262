"""Embedders of sentence-transformers: multilingual and multimodal models beyond open_clip's.

The vectors are those of ``SentenceTransformer.encode_query`` (queries) and ``encode_document`` (items), normalised in
float32. Source of the shape of a model: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from retllm.embedding import base, sentence_sources
from retllm.embedding.base import Embedder
from retllm.embedding.info import EmbedderInfo, checked_dimension, hash_of
from retllm.embedding.texts import TextSanitizer
from retllm.errors import ModelUnavailable, ModelUnsuited
from retllm.fine.cropping import crop_long
from retllm.metrics import BATCH

log = structlog.get_logger(__name__)

_LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)
# names of prompts in the configurations of models; the first one that has a text is used
_QUERY_PROMPTS = ("query", "retrieval.query", "search_query")
_ITEM_PROMPTS = ("document", "passage", "corpus", "retrieval.passage", "search_document")
# pixels and characters of one forward pass: 64 pictures of 384 x 384, 64 texts of 1,024 characters
_MOST_VALUES = 64 * 3 * 384 * 384
_MOST_CHARACTERS = 64 * 1024
# settings of processors that look at a picture in several tiles, each of the size that they name
_TILES = ("image_grid_pinpoints", "max_patches", "do_image_splitting", "crop_to_patches", "do_pan_and_scan")

Features = dict[str, Any]


class SentenceEmbedder(Embedder):
    """A loaded ``SentenceTransformer``; it may take pictures, texts or both."""

    def __init__(
        self, model: Any, name: str, revision: str, dimension: int | None = None, picture_source: str = "original"
    ) -> None:
        self._model = model.eval()
        self._cut = dimension
        # a chat model sees pictures and texts as messages, in the number of tokens that the picture needs
        self._chats = "message" in model.modalities
        self._batch = 8 if self._chats else Embedder._batch
        # fast tokenizers must not be called by two threads at a time
        self._tokenizer_lock = threading.Lock()
        self._sanitize = TextSanitizer(SimpleNamespace(tokenizer=model.tokenizer))
        self._prompts = {
            True: _first(model.prompts, _QUERY_PROMPTS),
            False: _first(model.prompts, _ITEM_PROMPTS),
        }
        pictures, texts = (bool(model.supports(kind)) for kind in ("image", "text"))
        processor = getattr(model[0], "processor", None)
        images = getattr(processor, "image_processor", processor)
        self._crops = bool(getattr(images, "do_center_crop", False))
        self.least_side = base.JPEG_OVER * _side(images) if pictures else 0
        preprocessing: dict[str, Any] = {
            "prompts": [self._prompts[True], self._prompts[False]],
            "max_seq_length": model.max_seq_length,
            "least_side": self.least_side,
        }
        if picture_source != "original":
            preprocessing["pictures"] = picture_source
        self.info = EmbedderInfo(
            name,
            revision,
            checked_dimension(name, self._dimension(name, pictures=pictures, texts=texts)),
            hash_of(preprocessing),
            pictures=pictures,
            texts=texts,
            asymmetric=self._prompts[True] != self._prompts[False],
        )

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        device: torch.device = self._model.device
        return device

    def _dimension(self, name: str, *, pictures: bool, texts: bool) -> int:
        if not pictures and not texts:
            raise ModelUnsuited(f"{name} takes neither pictures nor texts.", model=name)
        if texts:
            found = self._forward_texts(["a"], False)
        else:
            found = self._forward_images([self._pixels(Image.new("RGB", (64, 64)), False)], False)
        if self._cut is not None and found.shape[-1] != self._cut:
            raise ModelUnsuited(
                f"The vectors of {name} have {found.shape[-1]} dimensions and can't be cut to {self._cut}.", model=name
            )
        return int(found.shape[-1])

    def prepare(self, image: Image.Image) -> Any:
        """Return the model's input for the picture of an item, or the picture if that input would be much larger."""
        return image.convert("RGB") if self._chats else super().prepare(image)

    def embed_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Embed prepared pictures, with the same result as :meth:`embed_images`."""
        return self.embed_images(prepared) if self._chats else super().embed_prepared(prepared)

    def embed_texts(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Embed texts, truncated to the model's context; those of similar length together."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors = self._gathered(
            [
                self._forward_texts([texts[place] for place in batch], query)
                for batch in self._of_one_length(order, texts)
            ]
        )
        sorted_back = np.empty_like(vectors)
        sorted_back[order] = vectors
        return sorted_back

    def _of_one_length(self, order: Sequence[int], texts: Sequence[str]) -> list[list[int]]:
        """Split the places of texts, by length, into batches within the limits."""
        batches: list[list[int]] = []
        for place in order:
            full = not batches or len(batches[-1]) == self._batch
            if full or (len(batches[-1]) + 1) * len(texts[place]) > _MOST_CHARACTERS:
                batches.append([])
            batches[-1].append(place)
        return batches

    def _pixels(self, image: Image.Image, query: bool) -> Features:
        shown = (crop_long(image) if self._crops else image).convert("RGB")
        with self._tokenizer_lock if self._chats else nullcontext():
            return self._features([shown], query)

    def _features(self, inputs: Sequence[Any], query: bool) -> Features:
        made: Features = dict(self._model.preprocess(list(inputs), prompt=self._prompts[query], task=_task(query)))
        return made

    def _forward_images(self, prepared: Sequence[Features], query: bool) -> Tensor:
        """Pictures whose inputs have the same shapes are computed together, without padding."""
        alike: dict[Any, list[int]] = defaultdict(list)
        for place, features in enumerate(prepared):
            alike[tuple((name, _shape(value)) for name, value in sorted(features.items()))].append(place)
        rows: dict[int, Tensor] = {}
        for places in alike.values():
            values = sum(value.numel() for value in prepared[places[0]].values() if isinstance(value, Tensor))
            step = max(1, _MOST_VALUES // max(1, values))
            for at in range(0, len(places), step):
                some = places[at : at + step]
                rows |= zip(some, self._forward(_joined([prepared[place] for place in some]), query), strict=True)
        return torch.stack([rows[place] for place in range(len(prepared))])

    def _forward_texts(self, texts: Sequence[str], query: bool) -> Tensor:
        with self._tokenizer_lock:
            features = self._features([self._sanitize(text) for text in texts], query)
        return self._forward(features, query)

    def _forward(self, features: Features, query: bool) -> Tensor:
        from sentence_transformers.util import batch_to_device

        with torch.inference_mode():
            found: Tensor = self._model(batch_to_device(features, self.device), task=_task(query))["sentence_embedding"]
            BATCH.labels("embedder").observe(len(found))
            # shortened before they are normalised, as these models are trained
            return torch.nn.functional.normalize(found[:, : self._cut].float(), dim=-1)


def _task(query: bool) -> str:
    return "query" if query else "document"


def _first(prompts: Mapping[str, str], names: Sequence[str]) -> str:
    return next((prompts[name] for name in names if prompts.get(name)), "")


def _shape(value: Any) -> Any:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else repr(value)


def _joined(several: Sequence[Features]) -> Features:
    """Join inputs of single pictures, all of the same shapes, into that of a batch."""
    return {
        name: torch.cat([features[name] for features in several]) if isinstance(value, Tensor) else value
        for name, value in several[0].items()
    }


def _side(images: Any) -> int:
    """Return the side in pixels to which an image processor scales a picture; 0 if it can't be told from its settings.

    Qwen's processors give areas in pixels for ``shortest_edge`` and ``longest_edge``.
    """
    if any(getattr(images, name, None) for name in _TILES):
        return 0
    size = {name: side for name, side in dict(getattr(images, "size", None) or {}).items() if side}
    if getattr(images, "merge_size", None):
        return math.isqrt(size.get("longest_edge", 0))
    return int(max(size.values(), default=0))


def load_sentence_embedder(
    name: str, device: torch.device, dtype: torch.dtype, picture_source: str = "original"
) -> SentenceEmbedder:
    """Load a model by its name (:mod:`retllm.embedding.sentence_sources`), from safetensors and without its code.

    Raises:
        ModelUnavailable: it can't be loaded here; the message says what to do.
        ModelUnsuited: it can't be used as an embedder.
    """
    source = sentence_sources.can_load(name)
    if source.where == "nowhere":
        raise ModelUnavailable(source.message, model=name)
    parsed = sentence_sources.parse(name)
    folder = parsed.folder or sentence_sources.fetch(parsed)
    try:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            # a folder, so that nothing but the checked files can be read
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    except _LOAD_ERRORS as error:
        if "trust_remote_code" in str(error):
            raise sentence_sources.needs_code(name) from error
        reason = " ".join(str(error).split())[:300]
        raise ModelUnavailable(f"The files of {name} can't be loaded: {reason}", model=name) from error
    revision = sentence_sources.revision_of(folder)
    log.info("embedder_loaded", model=name, revision=revision, device=str(device), dtype=str(dtype))
    return SentenceEmbedder(model, name, revision, parsed.dimension, picture_source)
