"""CLIP-family encoders of open_clip, which map pictures and texts to vectors of one space (method section 2)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import structlog
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from retllm.embedding import sources
from retllm.embedding.info import EmbedderInfo
from retllm.embedding.sources import Name
from retllm.embedding.texts import TextSanitizer
from retllm.errors import InvalidInput, ModelUnavailable
from retllm.fine.cropping import crop_long
from retllm.fine.device import pick_device, pick_dtype
from retllm.logs import carried
from retllm.metrics import BATCH

log = structlog.get_logger(__name__)

_BATCH = 64
# a JPEG may be decoded at reduced size, but not below this multiple of the model's input size: at 2, single pixels
# after the transform differ by up to 0.08 (5 levels of 255) from the full decode, at 1 by up to 0.17
_JPEG_OVER = 2
_LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)


class Embedder:
    """A loaded encoder; create it with :func:`load_embedder`. Safe to call from several threads."""

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
        self.least_side = _JPEG_OVER * (config.size if isinstance(config.size, int) else max(config.size))
        """Minimum shorter side in pixels at which a JPEG may be decoded for :meth:`prepare`."""
        preprocessing = {**settings, "context_length": context, "least_side": self.least_side}
        if picture_source != "original":
            preprocessing["pictures"] = picture_source
        self.info = EmbedderInfo(name, revision, self._dimension(), _hash(preprocessing))

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._device

    def _dimension(self) -> int:
        return int(self._forward_texts(["a"]).shape[-1])

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            images: any number, of any size and mode.

        Returns:
            (n, d) float32, each row of length 1; rows are independent, up to floating-point tolerance.

        Raises:
            InvalidInput: a picture can't be decoded or resized; ``detail["index"]`` names it.
        """
        rows = [self._forward_images(batch) for batch in self._prepared(images)]
        return self._gathered(rows)

    def prepare(self, image: Image.Image) -> Tensor:
        """Return the model's input for a picture, for :meth:`embed_prepared`; the picture is no longer needed then.

        Raises:
            InvalidInput: the picture can't be decoded or resized.
        """
        return self._pixels(0, image)

    def embed_prepared(self, prepared: Sequence[Tensor]) -> NDArray[np.float32]:
        """Embed prepared pictures, with the same result as :meth:`embed_images`."""
        batches = [prepared[at : at + _BATCH] for at in range(0, len(prepared), _BATCH)]
        return self._gathered([self._forward_images(torch.stack(list(batch))) for batch in batches])

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, truncated to the model's context (77 tokens for CLIP).

        Returns:
            (n, d) float32, each row of length 1.
        """
        rows = [self._forward_texts(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)]
        return self._gathered(rows)

    def _prepared(self, images: Sequence[Image.Image]) -> Iterator[Tensor]:
        """Yield batches of pixels; while the model computes one batch, the next is prepared."""
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

            def start(at: int) -> Any:
                return pool.map(
                    carried(self._pixels), range(at, min(at + _BATCH, len(images))), images[at : at + _BATCH]
                )

            upcoming = start(0) if images else None
            for at in range(0, len(images), _BATCH):
                current = upcoming
                if at + _BATCH < len(images):
                    upcoming = start(at + _BATCH)
                assert current is not None
                yield torch.stack(list(current))

    def _pixels(self, index: int, image: Image.Image) -> Tensor:
        try:
            return self._transform(crop_long(image) if self._crops else image)
        except (OSError, ValueError, RuntimeError, SyntaxError, ZeroDivisionError) as error:
            raise InvalidInput(f"The picture can't be prepared: {error}", field="images", index=index) from error

    def _forward_images(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            BATCH.labels("embedder").observe(len(pixels))
            moved = pixels.to(self._device, self._dtype, non_blocking=True)
            return torch.nn.functional.normalize(self._model.encode_image(moved).float(), dim=-1)

    def _forward_texts(self, texts: Sequence[str]) -> Tensor:
        with self._tokenizer_lock:
            tokens: Tensor = self._tokenizer([self._sanitize(text) for text in texts])
        BATCH.labels("embedder").observe(len(texts))
        with torch.inference_mode():
            return torch.nn.functional.normalize(self._model.encode_text(tokens.to(self._device)).float(), dim=-1)

    def _gathered(self, rows: Sequence[Tensor]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.info.dimension), dtype=np.float32)
        vectors: NDArray[np.float32] = torch.cat(list(rows)).cpu().numpy()
        return vectors


def _hash(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode()).hexdigest()[:16]


def load_embedder(
    name: str, *, device: str = "auto", dtype: str = "auto", picture_source: str = "original"
) -> Embedder:
    """Load an open_clip encoder.

    Args:
        name: ``<architecture>/<tag>``, ``hf-hub:<org>/<repo>`` (both also with ``@<commit>``) or
            ``local-dir:<folder>``; safetensors only.
        device: ``auto`` (the GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        picture_source: what the pictures to embed are (``Settings.picture_source``); part of the preprocessing hash.

    Raises:
        ModelUnavailable: it can't be loaded here; the message says what to do.
    """
    chosen_device = pick_device(device)
    chosen_dtype = pick_dtype(dtype, chosen_device)
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
    return Embedder(model.eval(), tokenizer, name, revision, chosen_dtype, picture_source)


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
