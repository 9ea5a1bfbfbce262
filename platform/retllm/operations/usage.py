"""What a worker process uses of its host and of its GPU, as of a heartbeat."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types


@dataclass(frozen=True)
class Usage:
    """The usage at one moment; None is what is not known.

    Attributes:
        resident_bytes: memory of the process.
        load: processes of the host that ran or waited to run, on average over the last minute.
        cores: of the host.
        gpu_used_bytes, gpu_total_bytes: memory of the GPU, by whatever process; None on a CPU, and before the model is
            on it.
        gpu_utilization: share of the last moment in which the GPU computed, 0 to 1; None without the package
            ``nvidia-ml-py``, and where the driver does not tell.
    """

    resident_bytes: int | None = None
    load: float | None = None
    cores: int | None = None
    gpu_used_bytes: int | None = None
    gpu_total_bytes: int | None = None
    gpu_utilization: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the values as they are stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Usage | None:
        """Return what was stored, also by another release; None if a worker reports nothing."""
        if stored is None:
            return None
        return cls(**{field.name: stored.get(field.name) for field in fields(cls)})


def usage_of(device: str) -> Usage:
    """Measure what this process uses.

    Args:
        device: where its models compute, as PyTorch names it, such as ``cpu`` or ``cuda:1``; what follows is ignored.
    """
    gpu = re.match(r"cuda(?::([0-9]+))?", device)
    return Usage(
        resident_bytes=int(psutil.Process().memory_info().rss),
        load=round(os.getloadavg()[0], 2),
        cores=os.cpu_count(),
        **(_of_gpu(int(gpu[1] or 0)) if gpu else {}),
    )


def _of_gpu(index: int) -> dict[str, Any]:
    import torch

    # the first question would take memory of the GPU, before a model does
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # PyTorch's own
        return {}
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError:
        return {}
    return {"gpu_used_bytes": total - free, "gpu_total_bytes": total, "gpu_utilization": _utilization(index)}


def _utilization(index: int) -> float | None:
    import torch

    try:
        return torch.cuda.utilization(index) / 100
    except Exception:
        # without the package it is an import error, of the driver one of many others
        return None
