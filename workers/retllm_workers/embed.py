"""Tasks of the queues ``embed`` and ``query``, which need the embedders."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from celery.worker import state

from retllm.db.enums import Stage
from retllm.indexing import worker as indexing
from retllm.queue.notifications import TASK_OF
from retllm.queue.turns import waiting_unit
from retllm.queue.worker import Finisher, run_unit
from retllm.search import coarse_worker
from retllm.settings import get_settings
from retllm_workers.celery_app import app
from retllm_workers.context import HeldModel, get_context, limit_threads

if TYPE_CHECKING:
    from retllm.embedding import Embedder

QUEUES = frozenset({"embed", "query"})


def _load(name: str) -> Embedder:
    # imported here: the workers of the scorer do not need open_clip
    from retllm.embedding import load_embedder

    settings = get_settings()
    limit_threads(settings.embed_workers)
    return load_embedder(name, device=settings.device, dtype=settings.dtype, picture_source=settings.picture_source)


_HELD = {name: HeldModel(partial(_load, name)) for name in get_settings().embedders.values()}
HELD = _HELD[get_settings().embedder_name]
"""The main embedder; the others are loaded with the first unit that needs them."""


# the vectors of one unit are stored while the next one is embedded
_FINISHER = Finisher()


def models() -> dict[str, HeldModel[Embedder]]:
    """Return the configured embedders by public name."""
    return {known: _HELD[name] for known, name in get_settings().embedders.items()}


def _embedder(name: str) -> Embedder:
    return _HELD[name].get()


@app.task(name=TASK_OF[Stage.EMBED])  # type: ignore[untyped-decorator]  # celery has no types
def embed_unit(unit_id: str) -> None:
    """Embed the items of a unit of an index job."""
    run_unit(
        get_context(), UUID(unit_id), lambda context, held: indexing.embed_unit(context, held, _embedder), _FINISHER
    )


# a search goes before the units of index jobs, but so many in a row do not keep these from going on
_SEARCHES_IN_A_ROW = 16
_SEARCHES = itertools.count(1)
_SERVED: set[str] = set()


def serve(queues: Collection[str]) -> None:
    """Note the queues of this process."""
    _SERVED.update(queues)


def _let_pass() -> None:
    """Do a unit of an index job, if one waits, after so many searches."""
    if next(_SEARCHES) % _SEARCHES_IN_A_ROW or not _SERVED >= QUEUES or state.should_stop is not None:
        return
    context = get_context()
    waiting = waiting_unit(context.sessions, Stage.EMBED, context.settings, context.turns)
    if waiting is not None:
        embed_unit(str(waiting))


@app.task(name=TASK_OF[Stage.COARSE])  # type: ignore[untyped-decorator]  # celery has no types
def coarse_unit(unit_id: str) -> None:
    """Do the coarse stage of a search."""
    run_unit(get_context(), UUID(unit_id), lambda context, held: coarse_worker.coarse_unit(context, held, _embedder))
    _let_pass()
