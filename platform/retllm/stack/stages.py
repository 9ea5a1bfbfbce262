"""The platform's processes as stages of the local stack: migration, web server, dispatcher and workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from retllm.settings import Settings
from retllm.stack import commands
from retllm.stack.child import ProcessSpec
from retllm.stack.network import is_ready

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_READY_DELAY_SECONDS = 1.0
_MODEL_LIBRARIES_SECONDS = 180.0
"""A worker is ready when it has imported its libraries, which takes long on a cold disk."""
# for the last heartbeat and the end of the process
_STOP_MORE_SECONDS = 7.0


def platform_stages(
    settings: Settings,
    parts: Collection[str],
    env: Mapping[str, str],
    port: int,
    log_path: Callable[[str], Path],
    run: Path,
) -> list[list[ProcessSpec]]:
    """Return the stages of `parts` in the order of their start; `run` is the folder of the ready files."""
    spec = partial(_spec, env=env, log_path=log_path)
    stages: list[list[ProcessSpec]] = []
    if "migrate" in parts:
        stages.append([spec("migrate", commands.MIGRATE, once=True, ready_seconds=600)])
    if "web" in parts:
        ready = partial(is_ready, settings.host, port)
        stages.append([spec("web", commands.WEB, ready=ready, ready_seconds=90)])
    last: list[ProcessSpec] = []
    if "dispatch" in parts:
        last.append(spec("dispatch", commands.DISPATCH, ready=_ready_after_delay()))
    stop = settings.stop_seconds
    for kind in commands.QUEUES:
        count: int = getattr(settings, f"{kind}_workers")
        last += [_worker(kind, number, count, env, log_path, run, stop) for number in range(count) if kind in parts]
    return [*stages, last] if last else stages


def _spec(
    name: str,
    arguments: tuple[str, ...],
    *,
    env: Mapping[str, str],
    log_path: Callable[[str], Path],
    ready: Callable[[], bool] = lambda: True,
    ready_seconds: float = 60,
    once: bool = False,
    stop_seconds: float = 15,
) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=commands.python(arguments),
        log=log_path(name),
        env=env,
        ready=ready,
        ready_seconds=ready_seconds,
        once=once,
        stop_seconds=stop_seconds,
        cwd=Path("/"),  # so that no file of the current folder is imported by mistake
    )


def _ready_after_delay() -> Callable[[], bool]:
    """Return a check that is true a second after its first call; by then the process has loaded its modules."""
    first: list[float] = []

    def ready() -> bool:
        first.append(time.monotonic())
        return time.monotonic() - first[0] >= _READY_DELAY_SECONDS

    return ready


def _worker(
    kind: str,
    number: int,
    count: int,
    env: Mapping[str, str],
    log_path: Callable[[str], Path],
    run: Path,
    stop_seconds: float,
) -> ProcessSpec:
    name = kind if count == 1 else f"{kind}{number + 1}"
    file = run / f"{name}.ready"
    file.unlink(missing_ok=True)
    return _spec(
        name,
        commands.stack_worker(kind, f"{name}@{env['RETLLM_STACK'][:12]}"),
        env={**env, commands.READY_VARIABLE: str(file)} | _one_gpu(number, count, env),
        log_path=log_path,
        ready=file.exists,
        ready_seconds=_MODEL_LIBRARIES_SECONDS,
        # the worker returns its unit before that
        stop_seconds=stop_seconds + _STOP_MORE_SECONDS,
    )


def _one_gpu(number: int, count: int, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that assigns one of several GPUs to one of several workers of a kind."""
    listed = [part for part in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    if "CUDA_VISIBLE_DEVICES" not in env and _NVIDIA.is_dir():
        listed = [str(index) for index, _ in enumerate(_NVIDIA.iterdir())]
    return {"CUDA_VISIBLE_DEVICES": listed[number % len(listed)]} if count > 1 and listed else {}
