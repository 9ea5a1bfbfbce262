"""The device and precision that a model uses."""

from __future__ import annotations

import torch

from retllm.errors import ModelUnavailable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The precisions that a model can be loaded in."""


def pick_device(device: str) -> torch.device:
    """Return the device of this name; ``auto`` is the GPU if there is one.

    Raises:
        ModelUnavailable: this machine does not have the device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelUnavailable(f"There is no device called {device!r}; use auto, cpu or cuda.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelUnavailable("This machine has no usable GPU. Set the device to auto or cpu.")
    return chosen


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the precision of this name; ``auto`` is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ModelUnavailable: it is not one of :data:`DTYPES`.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ModelUnavailable(f"There is no precision called {dtype!r}; use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]
