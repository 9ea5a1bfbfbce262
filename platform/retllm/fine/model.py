"""Load an image-text-to-text model and find the parts that scoring needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from retllm.errors import InvalidInput, ModelUnavailable, ModelUnsuited
from retllm.fine.content import Picture
from retllm.fine.feedforward import FeedForward, read_feed_forward
from retllm.fine.hooks import Decoder
from retllm.fine.labels import check_labels
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import Prompts, with_profile
from retllm.fine.sources import ModelSource, can_load, not_downloaded, reach_hub
from retllm.profiles import BadProfile, Profile, choose_profile, names_of

log = structlog.get_logger(__name__)

#: what transformers and the hub client raise for files that are missing, broken or unreachable
LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in memory with its processor.

    Attributes:
        module: the transformers model, in evaluation mode.
        preparer: prepares its inputs.
        decoder: its layers and head.
        image_token: the placeholder token id of a visual token.
        source: where it was loaded from.
        revision: commit, or hash of its folder.
        prompts: the questions, as its profile changes them.
    """

    module: Any
    preparer: Preparer
    decoder: Decoder
    image_token: int
    source: ModelSource
    revision: str
    prompts: Prompts

    def feed_forward(self, number: int) -> FeedForward:
        """Return the feed-forward network of layer ``number``.

        Raises:
            ModelUnsuited: re-injection does not support it.
        """
        return read_feed_forward(self.decoder.layers[number], number)

    @property
    def windowed(self) -> bool:
        """Whether some layers attend only to a window of positions."""
        kinds = getattr(self.module.config.get_text_config(), "layer_types", None) or ()
        return any(kind != "full_attention" for kind in kinds)

    @property
    def shares_pictures(self) -> bool:
        """Whether projected visual tokens can be computed once and used for several pairs.

        True for the families that take ``mm_encoder_outputs`` and whose pictures are independent of each other in the
        vision tower (those with ``image_grid_thw``: Qwen2-VL and its successors).
        """
        takes = inspect.signature(self.module.forward).parameters
        return "mm_encoder_outputs" in takes and "image_grid_thw" in takes


def load_model(
    model: str,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype,
    picture_tokens: int | None,
    prompts: Prompts,
    profile: str | None,
) -> LoadedModel:
    """Load a model and its processor from a folder, the hub's cache or the hub, in this order.

    The questions are ``prompts`` as a profile changes them: that of the model's family, or ``profile``.

    Raises:
        InvalidInput: the profile can't be used.
        ModelUnavailable: it can't be loaded here; the message says what to do.
        ModelUnsuited: it is not an image-text-to-text model with a chat template, an answer of the profile is not a
            single token, or it needs more than ``picture_tokens`` for a picture of any size.
    """
    source = can_load(model, revision)
    if source.where == "nowhere":
        raise ModelUnavailable(source.message, model=model)
    if source.where == "download":
        try:
            reach_hub(model)
        except ConnectionError as error:
            raise explain(model, False, error) from error
    name = str(source.folder) if source.folder is not None else model
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": source.here}
    if source.folder is None:
        options["revision"] = revision or "main"
    processor, module = _load(model, name, options, dtype)
    found = source.revision or getattr(module.config, "_commit_hash", None) or revision or "unknown"
    return ready_model(processor, module, source, str(found), device, picture_tokens, prompts, profile)


def ready_model(
    processor: Any,
    module: Any,
    source: ModelSource,
    revision: str,
    device: torch.device,
    picture_tokens: int | None,
    prompts: Prompts,
    profile: str | None,
) -> LoadedModel:
    """Move a model to its device and find the parts that scoring needs; otherwise like :func:`load_model`.

    Args:
        processor, module: of transformers.
        source: where they are from.
        revision: their commit, or the hash of their folder.
        device, picture_tokens, prompts, profile: see :func:`load_model`.
    """
    model = source.model
    try:
        module.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise ModelUnavailable(
            f"{model} does not fit into the memory of {device}. Choose a smaller model or a larger device.", model=model
        ) from error
    text_config = module.config.get_text_config()
    text_config.use_cache = False
    log.info("model_loaded", model=model, revision=revision, device=str(device), dtype=str(module.dtype))
    prompts = with_profile(prompts, _profile(profile, model, module.config, processor))
    limit = getattr(text_config, "max_position_embeddings", None)
    preparer = Preparer(model, processor, limit, prompts.system, prompts.template_arguments)
    check_labels(preparer, prompts)
    image_token = _image_token(model, module.config)
    budget = prompts.budget(picture_tokens)
    preparer.limit_pictures(budget, module.config, image_token, at_least=picture_tokens is None)
    if not _takes_smallest(module, preparer):
        preparer.pad_smallest()
    return LoadedModel(
        module=module,
        preparer=preparer,
        decoder=_decoder(model, module),
        image_token=image_token,
        source=source,
        revision=revision,
        prompts=prompts,
    )


def _profile(chosen: str | None, model: str, config: Any, processor: Any) -> Profile:
    template = str(getattr(processor, "chat_template", ""))
    try:
        return choose_profile(chosen, config.model_type, names_of(model), template)
    except BadProfile as error:
        raise InvalidInput(f"{error}.", field="profile") from error


def _load(model: str, name: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(name, **options)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ModelUnsuited(
                f"{model} is a {config.model_type} model, which does not answer questions about pictures in text. "
                "Choose an image-text-to-text model.",
                model=model,
            )
        processor = AutoProcessor.from_pretrained(name, **options)
        module = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, use_safetensors=True, **options)
    except LOAD_ERRORS as error:
        raise explain(model, options["local_files_only"], error) from error
    return processor, module


def explain(model: str, here: bool, error: Exception) -> ModelUnavailable:
    """Return an error with one sentence on why loading failed, instead of a library's traceback."""
    text = " ".join(str(error).split())
    reason = text[:300] or type(error).__name__
    if "trust_remote_code" in text:
        return ModelUnsuited(
            f"{model} needs code from its own repository, which is never run. Choose a model whose class is part of "
            "transformers.",
            model=model,
        )
    if here:
        return ModelUnavailable(f"The files of {model} can't be loaded: {reason}", model=model)
    return not_downloaded(model, "give that folder", error)


def _decoder(model: str, module: Any) -> Decoder:
    trunk = module.get_decoder()
    layers, norm = getattr(trunk, "layers", None), getattr(trunk, "norm", None)
    head = module.get_output_embeddings()
    if not isinstance(layers, nn.ModuleList) or norm is None or not isinstance(head, nn.Module):
        raise ModelUnsuited(
            f"{model} ({type(module).__name__}) is not built as a stack of decoder layers with a final norm and an "
            "output projection, which scoring relies on. Choose another model.",
            model=model,
        )
    cap = getattr(module.config.get_text_config(), "final_logit_softcapping", None)
    return Decoder(trunk, layers, head, _reader(norm, head, cap))


def _reader(norm: nn.Module, head: nn.Module, cap: float | None) -> Callable[[Tensor], Tensor]:
    """Return the function ``lm_head(norm(h))`` of the model, including its soft cap if it has one."""

    def read(hidden: Tensor) -> Tensor:
        # forward, not a call: the head's hooks are only for the final answer
        logits: Tensor = head.forward(norm(hidden))[:, 0].float()
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return read


def _image_token(model: str, config: Any) -> int:
    for name in ("image_token_id", "image_token_index"):
        token = getattr(config, name, None)
        if isinstance(token, int):
            return token
    raise ModelUnsuited(f"{model} does not define an image token. Choose another model.", model=model)


def _takes_smallest(module: Any, preparer: Preparer) -> bool:
    """Return whether the model takes a picture of the fewest tokens that its processor makes; Mistral 3 does not."""
    try:
        pair = preparer.pair(0, [Picture(Image.new("RGB", (1, 1))), "?"])
    except InvalidInput:
        # it takes no picture on any canvas, so something else is wrong, which a later check names
        return True
    inputs = {
        key: value.to(module.device, module.dtype if value.is_floating_point() else None)
        for key, value in (pair.tokens | pair.vision).items()
    }
    try:
        with torch.inference_mode():
            module(**inputs)
    except torch.OutOfMemoryError:
        # scoring says so, of a pair that needs the memory
        return True
    except (RuntimeError, ValueError, IndexError) as error:
        log.info("smallest_picture_not_taken", reason=str(error)[:300])
        return False
    return True


def answer_ends(loaded: LoadedModel) -> frozenset[int]:
    """Return the tokens that end a written answer: end of text, end of turn, and every other control token.

    An image token in the answer would require a picture that does not exist.
    """
    settings = getattr(loaded.module, "generation_config", None)
    eos = getattr(settings, "eos_token_id", None)
    ends = eos if isinstance(eos, list) else [eos]
    return frozenset({loaded.image_token, *(end for end in ends if end is not None), *loaded.preparer.control_ids()})
