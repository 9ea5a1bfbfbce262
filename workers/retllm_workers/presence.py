"""Reports this worker process, with its queues, device, models and usage, to the table of workers."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from retllm.operations.usage import usage_of
from retllm.operations.workers import Heartbeat, WorkerReport
from retllm.queue.routing import is_of_scorer, routing_of
from retllm.settings import get_settings
from retllm_workers import embed, score
from retllm_workers.context import HeldModel, get_context, watch_models, worker_name, worker_settings

_HEARTBEATS: list[Heartbeat] = []


def begin(queues: Collection[str]) -> None:
    """Start to report this process and the queues that it serves."""
    served = [queue for queue in routing_of(get_settings()).queues if queue in queues]
    heartbeat = Heartbeat(get_context().sessions, lambda: report(served))
    _HEARTBEATS.append(heartbeat)
    # the report has the state of each model
    watch_models(heartbeat.soon)
    heartbeat.start()


def end() -> None:
    """Report that this process stops, and end the reports.

    The main thread calls this, and so does the thread that returns a unit; either ends the process afterwards, so each
    waits for the report.
    """
    for heartbeat in _HEARTBEATS:
        heartbeat.stop()


def report(queues: list[str]) -> WorkerReport:
    """Return the current state of this process."""
    held: dict[str, HeldModel[Any]] = {}
    if embed.QUEUES & set(queues):
        held |= embed.models()
    if any(map(is_of_scorer, queues)):
        held |= score.models()
    models = [_model_state(name, model) for name, model in held.items()]
    device = _device_of(queues)
    return WorkerReport(worker_name(), queues, device, version("retllm-platform"), models, usage_of(device))


def _device_of(queues: list[str]) -> str:
    """Return where the models of these queues compute."""
    scores = any(map(is_of_scorer, queues))
    if embed.QUEUES & set(queues) or (scores and worker_settings().remote_scorer is None):
        return _device()
    # PyTorch is not imported for a scorer on a server
    return "server" if scores else "cpu"


def _model_state(name: str, held: HeldModel[Any]) -> dict[str, Any]:
    model = held.loaded
    return {
        "name": name,
        "revision": model.info.revision if model is not None else None,
        "loaded": model is not None,
        "error": held.error,
    }


def _device() -> str:
    """Return the device of this process's models, with the name of the GPU."""
    import torch

    from retllm.errors import ModelUnavailable
    from retllm.fine.device import pick_device

    try:
        device = pick_device(get_settings().device)
    except ModelUnavailable as error:
        return error.message
    return f"{device}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
