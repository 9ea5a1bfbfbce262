"""The state of a worker process: its connections and its models."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Generic, TypeVar

import structlog

from retllm.db.session import sessions_of
from retllm.errors import InvalidInput, RetllmError
from retllm.job_kinds import register_handlers
from retllm.media.storage import get_storage
from retllm.queue.claim import describe
from retllm.queue.notifications import Notifier
from retllm.queue.routing import is_of_scorer, routing_of, scorer_of
from retllm.queue.worker import WorkerContext
from retllm.scorer_address import is_remote
from retllm.settings import Settings, get_settings

log = structlog.get_logger(__name__)

Model = TypeVar("Model")

# called when a model of this process was loaded, or could not be
_WATCHERS: list[Callable[[], None]] = []

# the scorer of this process's queue, if that is not the main one's
_SERVED: list[str | None] = []


def serve(queues: Collection[str]) -> None:
    """Choose the scorer that this process serves by its queues, before anything else reads its settings.

    Raises:
        InvalidInput: these are queues of several scorers, or of one that is not configured.
    """
    scorers = [queue for queue in queues if is_of_scorer(queue)]
    if len(scorers) > 1:
        raise InvalidInput(f"One worker serves one scorer: start a process for each of {', '.join(scorers)}.")
    for queue in scorers:
        get_settings().serving(scorer_of(queue))
        _SERVED.append(scorer_of(queue))


@lru_cache(maxsize=1)
def worker_settings() -> Settings:
    """Return the settings of this process, with the scorer that it serves."""
    return get_settings().serving(_SERVED[-1] if _SERVED else None)


def worker_name() -> str:
    """Return the name under which this process claims units."""
    return f"{socket.gethostname()}:{os.getpid()}"


@lru_cache(maxsize=1)
def get_context() -> WorkerContext:
    """Return the connections of this process, opened at the first task."""
    register_handlers()
    settings = worker_settings()
    return WorkerContext(
        sessions=sessions_of(settings, idle_seconds=settings.lease_seconds),
        storage=get_storage(settings),
        settings=settings,
        notifier=Notifier(settings.redis_url, routing_of(settings)),
        worker=worker_name(),
    )


def watch_models(changed: Callable[[], None]) -> None:
    """Call ``changed``, which must return at once, when the state of a model of this process has changed."""
    _WATCHERS.append(changed)


class HeldModel(Generic[Model]):
    """A model that is loaded once, at first use; after a failed load the next use tries again."""

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._error: str | None = None

    @property
    def loaded(self) -> Model | None:
        """The model if it is loaded; does not block."""
        return self._model

    @property
    def error(self) -> str | None:
        """Why the last load failed; None if it succeeded."""
        return self._error

    def get(self) -> Model:
        """Return the model; load it if necessary.

        Raises:
            ModelUnavailable: it can't be loaded here; the message says why.
        """
        with self._lock:
            if self._model is None:
                self._load_model()
            assert self._model is not None
            return self._model

    def _load_model(self) -> None:
        before = self._error
        try:
            self._model = self._load()
            self._error = None
        except Exception as error:
            self._error = describe(error)
            raise
        finally:
            if self._model is not None or self._error != before:
                for changed in _WATCHERS:
                    changed()

    def load_early(self) -> None:
        """Load the model in a thread; if that fails, the first unit that needs the model reports the error."""
        threading.Thread(target=self._try, name="load-model", daemon=True).start()

    def _try(self) -> None:
        try:
            self.get()
        except RetllmError as error:
            log.warning("model.not_loaded", reason=error.message)
        else:
            log.info("model.loaded")


def limit_threads(workers: int) -> None:
    """Limit torch to this worker's share of the cores among ``workers`` of its kind, which work at the same time.

    Workers of the other kind mostly wait meanwhile. When they do not, the threads of both share the cores with little
    loss, since a thread that has nothing to do sleeps (``OMP_WAIT_POLICY``, see ``retllm_workers``).
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(get_settings().torch_threads or max(1, cores // max(1, workers)))


def local_score_workers() -> int:
    """Return how many workers of this host score with a model of their own."""
    settings = get_settings()
    return settings.score_workers * sum(not is_remote(scorer) for scorer in settings.scorers)
