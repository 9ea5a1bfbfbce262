"""How much memory of its device a scorer may use for image prefixes."""

from __future__ import annotations

from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import torch

#: of the free memory of a GPU, for what else runs on it and for gaps between tensors
_SHARE = 0.9

#: tokens of a forward pass from which one is chosen on a GPU, and those on a CPU
_BUDGETS = (2048, 4096, 8192, 16_384)
_USUAL_BUDGET = 8192
_PASS_SHARE = 0.5

#: of a computer without a GPU, whose memory is everybody's
_CPU_SHARE = 8
_CPU_MOST = 1 << 30

#: intermediate results of a layer that exist at a time, in multiples of its widths; more than measured layers have
_WIDTHS, _INNER_WIDTHS = 8, 3

#: the vision tower's pass is about as large as the decoder's
_TOWERS = 2

#: tokens of a short question: a batch of the budget has so many fewer rows of logits
_SHORT = 64
_LOGIT_COPIES = 3


def free_bytes(device: torch.device) -> int:
    """Return the bytes that this process can still use: of a GPU, or of this computer."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what PyTorch took and does not use
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


def pass_bytes(config: Any, token_budget: int, width: int) -> int:
    """Return an upper estimate of the bytes of one forward pass with ``token_budget`` tokens, and its cached prefixes.

    Args:
        config: of the text model.
        token_budget: tokens of the pass.
        width: bytes of a number of the model.
    """
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    states = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * head
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # keys and values: as the pass makes them, and as copies for the cache or from it
    each = 2 * states + _TOWERS * (_WIDTHS * config.hidden_size + _INNER_WIDTHS * inner)
    masks = token_budget * token_budget
    logits = _LOGIT_COPIES * 4 * config.vocab_size * max(1, token_budget // _SHORT)
    return int(width * (token_budget * each + masks) + logits)


def fitting_token_budget(module: Any) -> int:
    """Return the tokens of a forward pass that suit the device of a loaded model.

    On a GPU the most of some numbers whose pass takes at most half of the free memory; the rest is for caches.
    """
    if module.device.type != "cuda":
        return _USUAL_BUDGET
    free, config, width = free_bytes(module.device), module.config.get_text_config(), module.dtype.itemsize
    fitting = (tokens for tokens in _BUDGETS if pass_bytes(config, tokens, width) <= _PASS_SHARE * free)
    return max(fitting, default=_BUDGETS[0])


def fitting_prefix_bytes(module: Any, token_budget: int, visual_bytes: int) -> int:
    """Return the bytes for image prefixes that a loaded model's device has.

    On a GPU, what is free less one forward pass and the cache of visual tokens; on a CPU an eighth of the available
    memory, at most 1 GiB.

    Args:
        module: the transformers model, on its device.
        token_budget: tokens of a forward pass.
        visual_bytes: size of the cache of visual tokens.
    """
    free = free_bytes(module.device)
    if module.device.type != "cuda":
        return min(_CPU_MOST, free // _CPU_SHARE)
    room = pass_bytes(module.config.get_text_config(), token_budget, module.dtype.itemsize) + visual_bytes
    return max(0, int(_SHARE * free) - room)


def describe_caches(device: torch.device, token_budget: int | None, prefix_bytes: int | None) -> str:
    """Say in sentences how a worker would use the device."""
    if token_budget is None and device.type == "cuda":
        batch = f"A batch has {_BUDGETS[0]:,} to {_BUDGETS[-1]:,} tokens, by what is free after loading"
    else:
        batch = f"A batch has at most {token_budget or _USUAL_BUDGET:,} tokens"
    if prefix_bytes is not None:
        return f"{batch}; {prefix_bytes / (1 << 30):.1f} GB are for image prefixes (RETLLM_PREFIX_CACHE_BYTES)."
    free = free_bytes(device)
    if device.type == "cuda":
        return f"{batch}; image prefixes use what {device} has free after loading (now {free / (1 << 30):.1f} GB)."
    most = min(_CPU_MOST, free // _CPU_SHARE)
    return f"{batch}; up to {most / (1 << 30):.1f} GB of memory are for image prefixes."
