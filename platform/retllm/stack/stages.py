"""The platform's processes as stages of the local stack: migration, web server, dispatcher and workers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retllm.scorer_address import is_remote
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
    last += [
        _worker(one, env, log_path, run, settings.stop_seconds) for one in _workers(settings, env) if one.part in parts
    ]
    return [*stages, last] if last else stages


@dataclass(frozen=True)
class _Worker:
    """One worker process: its part of the stack, name, queues, and environment beside that of all."""

    part: str
    name: str
    queues: str
    env: Mapping[str, str]


def _workers(settings: Settings, env: Mapping[str, str]) -> Iterator[_Worker]:
    for kind in ("media", "embed"):
        count: int = getattr(settings, f"{kind}_workers")
        for number in range(count):
            yield _Worker(kind, _numbered(kind, number, count), commands.QUEUES[kind], _one_gpu(number, count, env))
    count = settings.score_workers
    on_gpus = count * sum(not is_remote(scorer) for scorer in settings.scorers)
    started = 0
    for place, scorer in enumerate(settings.scorers, 1):
        # the place keeps the names of two scorers apart
        name = "score" if place == 1 else f"score-{place}-{_in_file_names(settings.scorer_names[place - 1])}"
        queue = commands.QUEUES["score"] if place == 1 else f"score:{settings.scorer_names[place - 1]}"
        for number in range(count):
            gpu = {} if is_remote(scorer) else _one_gpu(started, on_gpus, env)
            started += not is_remote(scorer)
            yield _Worker("score", _numbered(name, number, count, "" if place == 1 else "-"), queue, gpu)


def _numbered(name: str, number: int, count: int, between: str = "") -> str:
    return name if count == 1 else f"{name}{between}{number + 1}"


def _in_file_names(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name)[:60]


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
    gives_way: bool = False,
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
        gives_way=gives_way,
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
    worker: _Worker,
    env: Mapping[str, str],
    log_path: Callable[[str], Path],
    run: Path,
    stop_seconds: float,
) -> ProcessSpec:
    file = run / f"{worker.name}.ready"
    file.unlink(missing_ok=True)
    return _spec(
        worker.name,
        commands.stack_worker(worker.part, f"{worker.name}@{env['RETLLM_STACK'][:12]}", worker.queues),
        env={**env, commands.READY_VARIABLE: str(file), **worker.env},
        log_path=log_path,
        ready=file.exists,
        ready_seconds=_MODEL_LIBRARIES_SECONDS,
        # the worker returns its unit before that
        stop_seconds=stop_seconds + _STOP_MORE_SECONDS,
        gives_way=True,
    )


def _one_gpu(number: int, count: int, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that assigns one of several GPUs to one of several workers of a kind, or of scorers."""
    listed = [part for part in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    if "CUDA_VISIBLE_DEVICES" not in env and _NVIDIA.is_dir():
        listed = [str(index) for index, _ in enumerate(_NVIDIA.iterdir())]
    return {"CUDA_VISIBLE_DEVICES": listed[number % len(listed)]} if count > 1 and listed else {}
