"""Accepting work: the job and its units in one transaction, announced by the caller after the commit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState, JobKind, Stage
from retllm.db.tables import Item, Search
from retllm.errors import Conflict, InvalidInput
from retllm.fine.decision import default_tie_decimals
from retllm.fine.injection import Injection
from retllm.fine.prompts import Mode
from retllm.fine.waves import Adaptive
from retllm.identity.access import collection_for
from retllm.identity.actor import Actor
from retllm.indexing.indexed import embedder_of
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, insert_job
from retllm.search import coarse
from retllm.search.request import AdaptiveRequest, SearchRequest
from retllm.settings import Settings, public_name

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class StoredPicture:
    """A query picture that is already in the storage."""

    key: str
    sha256: str


def submit_search(
    session: Session,
    actor: Actor,
    collection_id: UUID,
    request: SearchRequest,
    settings: Settings,
    *,
    picture: StoredPicture | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """A search job with its one coarse unit; the coarse unit makes the others.

    Raises:
        NotFound: no such collection.
        InvalidInput: the query is empty, or a field is out of bounds.
        Conflict: the collection is empty or not indexed, or the idempotency key stands for another request.
    """
    used = embedder_of(collection_for(session, actor, collection_id), settings)
    text = _checked_text(request, settings, has_picture=picture is not None)
    params = request.model_dump(mode="json", exclude_none=True) | ({"picture": picture.sha256} if picture else {})
    search = _search_row(request, settings, used, text, picture)
    job, created = insert_job(session, actor, collection_id, JobKind.SEARCH, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    _require_items(session, collection_id)
    coarse.require_indexed(session, collection_id, search)
    search.id = job.id
    session.add(search)
    session.flush()
    return Submitted(job, lifecycle.add_units(session, job, Stage.COARSE, [{}]), created=True)


def _checked_text(request: SearchRequest, settings: Settings, *, has_picture: bool) -> str | None:
    text = (request.text or "").strip() or None
    if text is None and not has_picture:
        raise InvalidInput("The query is empty: give a text, a picture, or both.", field="text")
    if text is not None and len(text) > settings.max_text_chars:
        raise InvalidInput(f"The query text is longer than {settings.max_text_chars} characters.", field="text")
    if text is not None and "\x00" in text:
        raise InvalidInput("The query text holds a NUL character.", field="text")
    return text


def _search_row(
    request: SearchRequest, settings: Settings, embedder: str, text: str | None, picture: StoredPicture | None
) -> Search:
    k = settings.k if request.k is None else request.k
    if k > settings.max_k:
        raise InvalidInput(f"k is at most {settings.max_k} here (setting RETLLM_MAX_K).", field="k")
    asked = request.injection.model_dump(exclude_none=True)
    ours = {"alpha": settings.alpha, "trigger": settings.trigger, "tau": settings.tau, "scope": settings.scope}
    injection = Injection(**(ours | asked))
    kinds: Sequence[ItemKind] = request.kinds or list(ItemKind)
    with_picture = ItemKind.BOTH if text else ItemKind.IMAGE
    kind = ItemKind.TEXT if picture is None else with_picture
    mode: Mode = settings.mode if request.mode is None else request.mode
    return Search(
        kind=kind,
        query_text=text,
        query_picture_key=picture.key if picture else None,
        query_picture_sha256=picture.sha256 if picture else None,
        question=question_of(text, picture.sha256 if picture else None),
        k=k,
        item_kinds=sorted({str(one) for one in kinds}),
        query_image_weight=_first(request.query_image_weight, settings.query_image_weight),
        embedder=embedder,
        scorer=public_name(settings.scorer_name),
        scorer_revision=settings.scorer_revision,
        mode=mode,
        injection=injection.as_json(),
        tie_decimals=_first(request.tie_decimals, settings.tie_decimals, default_tie_decimals(mode)),
        adaptive=_adaptive(request, settings),
        fusion_weight=_first(request.fusion_weight, settings.fusion_weight),
        coarse=coarse.asked_for(request, settings, embedder, k, has_text=text is not None),
        trace=request.trace,
        unit_candidates=settings.score_unit_candidates,
    )


def question_of(text: str | None, picture_sha256: str | None) -> str:
    """A hash of what is asked, whatever the settings of the search."""
    return hashlib.sha256(f"{text or ''}\0{picture_sha256 or ''}".encode()).hexdigest()


def _first(*values: Number | None) -> Number:
    """The first that was given; the last is always there."""
    return next(value for value in values if value is not None)


def _adaptive(request: SearchRequest, settings: Settings) -> dict[str, Any] | None:
    """The settings of the waves, or None if the search goes over all its candidates at once."""
    asked = settings.adaptive if request.adaptive is None else request.adaptive
    if asked is False:
        return None
    ours = {
        "first": settings.adaptive_first,
        "step": settings.adaptive_step,
        "clear_score": settings.adaptive_clear_score,
        "clear_gap": settings.adaptive_clear_gap,
    }
    theirs = asked.model_dump(exclude_none=True) if isinstance(asked, AdaptiveRequest) else {}
    return Adaptive.from_json(ours | theirs).as_json()


def _require_items(session: Session, collection_id: UUID) -> None:
    ready = sa.select(Item.id).where(Item.collection_id == collection_id, Item.state == ItemState.READY).limit(1)
    if session.scalar(ready) is None:
        raise Conflict("The collection is empty: upload something first.")
