"""CLIP-family encoders of open_clip, which map pictures and texts to vectors of one space (method section 2)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import structlog
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from retllm.embedding import base, sentence_sources, sources
from retllm.embedding.base import Embedder
from retllm.embedding.info import EmbedderInfo, checked_dimension, hash_of
from retllm.embedding.sources import Name
from retllm.embedding.texts import TextSanitizer
from retllm.errors import ModelUnavailable
from retllm.fine.cropping import crop_long
from retllm.fine.device import pick_device, pick_dtype
from retllm.metrics import BATCH

log = structlog.get_logger(__name__)

_LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)


class OpenClipEmbedder(Embedder):
    """An encoder of open_clip; it embeds queries as it embeds items."""

    def __init__(
        self, model: Any, tokenizer: Any, name: str, revision: str, dtype: torch.dtype, picture_source: str = "original"
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._device: torch.device = next(model.parameters()).device
        settings = dict(model.visual.preprocess_cfg)
        config = PreprocessCfg(**settings)
        self._transform: Callable[[Image.Image], Tensor] = image_transform_v2(config, is_train=False)
        self._crops = config.resize_mode == "shortest"
        self._sanitize = TextSanitizer(tokenizer)
        # some tokenizers change their state when called
        self._tokenizer_lock = threading.Lock()
        context = int(getattr(tokenizer, "context_length", 0) or 0)
        self.least_side = base.JPEG_OVER * (config.size if isinstance(config.size, int) else max(config.size))
        preprocessing = {**settings, "context_length": context, "least_side": self.least_side}
        if picture_source != "original":
            preprocessing["pictures"] = picture_source
        dimension = int(self._forward_texts(["a"], False).shape[-1])
        self.info = EmbedderInfo(name, revision, checked_dimension(name, dimension), hash_of(preprocessing))

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._device

    def _pixels(self, image: Image.Image, _query: bool) -> Tensor:
        return self._transform(crop_long(image) if self._crops else image)

    def _forward_images(self, prepared: Sequence[Tensor], _query: bool) -> Tensor:
        with torch.inference_mode():
            BATCH.labels("embedder").observe(len(prepared))
            moved = torch.stack(list(prepared)).to(self._device, self._dtype, non_blocking=True)
            return torch.nn.functional.normalize(self._model.encode_image(moved).float(), dim=-1)

    def _forward_texts(self, texts: Sequence[str], _query: bool) -> Tensor:
        with self._tokenizer_lock:
            tokens: Tensor = self._tokenizer([self._sanitize(text) for text in texts])
        BATCH.labels("embedder").observe(len(texts))
        with torch.inference_mode():
            return torch.nn.functional.normalize(self._model.encode_text(tokens.to(self._device)).float(), dim=-1)


def load_embedder(
    name: str, *, device: str = "auto", dtype: str = "auto", picture_source: str = "original"
) -> Embedder:
    """Load an encoder of open_clip, or of sentence-transformers.

    Args:
        name: ``<architecture>/<tag>``, ``hf-hub:<org>/<repo>`` (both also with ``@<commit>``) or
            ``local-dir:<folder>``; for sentence-transformers see :mod:`retllm.embedding.sentence_sources`. Safetensors
            only.
        device: ``auto`` (the GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        picture_source: what the pictures to embed are (``Settings.picture_source``); part of the preprocessing hash.

    Raises:
        ModelUnavailable: it can't be loaded here; the message says what to do.
    """
    chosen_device = pick_device(device)
    chosen_dtype = pick_dtype(dtype, chosen_device)
    if sentence_sources.is_sentence_name(name):
        from retllm.embedding.sentence import load_sentence_embedder

        return load_sentence_embedder(name, chosen_device, chosen_dtype, picture_source)
    parsed = sources.parse(name)
    source = sources.can_load(name)
    if source.where == "nowhere":
        raise ModelUnavailable(source.message, model=name)
    if parsed.folder is not None:
        weights, revision = sources.weights_in(parsed.folder), str(source.revision)
        assert weights is not None
    else:
        weights, revision = sources.fetch(parsed)
    if parsed.architecture is None:
        sources.require_no_code(name, weights.parent)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[chosen_dtype]
    try:
        model = _create(parsed, str(weights), precision, chosen_device)
        # open_clip does not support commits: for a pinned model, take the tokenizer from the folder of the weights
        tokenizer_source = f"local-dir:{weights.parent}" if parsed.revision else name
        tokenizer = open_clip.get_tokenizer(parsed.architecture or tokenizer_source)
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnavailable(f"The files of {name} can't be loaded: {reason}", model=name) from error
    log.info("embedder_loaded", model=name, revision=revision, device=str(chosen_device), dtype=str(chosen_dtype))
    return OpenClipEmbedder(model.eval(), tokenizer, name, revision, chosen_dtype, picture_source)


def _create(parsed: Name, weights: str, precision: str, device: torch.device) -> Any:
    """Create the model with exactly these weights; open_clip's own search would also accept pickle files."""
    if parsed.architecture is not None and parsed.tag is not None:
        tag = sources.tag_config(parsed.architecture, parsed.tag) or {}
        return open_clip.create_model(
            parsed.architecture,
            pretrained=weights,
            precision=precision,
            device=device,
            # OpenAI's weights need a different activation than the architecture of the same name has
            force_quick_gelu=bool(tag.get("quick_gelu")),
            force_preprocess_cfg=tag,
        )
    return open_clip.create_model(f"local-dir:{Path(weights).parent}", precision=precision, device=device)
