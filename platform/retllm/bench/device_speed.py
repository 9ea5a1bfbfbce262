"""What a device can do at most, what a forward pass asks of it, and what a pair costs its host."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from retllm.fine import Content, Scorer

#: side of the matrices, and repetitions of which the fastest counts
_SIDE = {"cuda": 8192, "cpu": 1024}
_REPETITIONS = 5


def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of ``device`` when it multiplies two large square matrices."""
    side = _SIDE.get(device.type, _SIDE["cpu"])
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_REPETITIONS):
        _synchronize(device)
        began = time.perf_counter()
        left @ right
        _synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(run: Callable[[], object]) -> int:
    """Return the floating-point operations of the products of matrices and the attention in ``run``."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def host_milliseconds(scorer: Scorer, query: Content, candidates: Sequence[Content]) -> float:
    """Return the milliseconds of processor time that preparing the pairs takes, from decoded pictures to tensors."""
    scorer.forget()
    began = time.process_time()
    with scorer.loaded.preparer.pictures_once():
        for index, candidate in enumerate(candidates):
            scorer.loaded.preparer.pair(index, scorer.prompts.message("true_false", query, candidate))
    return 1e3 * (time.process_time() - began)
