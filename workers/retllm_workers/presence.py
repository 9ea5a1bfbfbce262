"""What this worker process tells of itself, so that people see who serves which queue with which model."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from retllm.operations.queues import QUEUES
from retllm.operations.workers import Heartbeat, WorkerReport
from retllm.settings import get_settings
from retllm_workers import embed, score
from retllm_workers.context import HeldModel, get_context, worker_name

_HEARTS: list[Heartbeat] = []


def begin(queues: Collection[str]) -> None:
    """Tell of this process, which serves these queues, until ``end``."""
    served = [queue for queue in QUEUES if queue in queues]
    heart = Heartbeat(get_context().sessions, lambda: report(served))
    _HEARTS.append(heart)
    heart.start()


def end() -> None:
    """Say that this process ends in order."""
    while _HEARTS:
        _HEARTS.pop().stop()


def report(queues: list[str]) -> WorkerReport:
    """This process as it is now."""
    held: dict[str, HeldModel[Any]] = {}
    if embed.QUEUES & set(queues):
        held |= embed.models()
    if score.QUEUES & set(queues):
        held |= score.models()
    models = [_told(name, one) for name, one in held.items()]
    return WorkerReport(worker_name(), queues, _device(), version("retllm-platform"), models)


def _told(name: str, held: HeldModel[Any]) -> dict[str, Any]:
    model = held.loaded
    return {
        "name": name,
        "revision": model.info.revision if model is not None else None,
        "loaded": model is not None,
        "error": held.error,
    }


def _device() -> str:
    """The device that the models of this process are on, with the name of the GPU."""
    import torch

    from retllm.errors import ModelUnavailable
    from retllm.fine.device import pick_device

    try:
        device = pick_device(get_settings().device)
    except ModelUnavailable as error:
        return error.message
    return f"{device}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
