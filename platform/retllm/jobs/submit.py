"""Accepting work: the job and its units in one transaction, announced by the caller after the commit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from retllm.access import Right, collection_for
from retllm.db.enums import ItemKind, ItemState, JobKind, Stage
from retllm.db.tables import Item, Job, Search, User, new_id
from retllm.errors import Conflict, InvalidInput
from retllm.fine.decision import default_tie_decimals
from retllm.fine.injection import Injection
from retllm.fine.prompts import Mode
from retllm.fine.waves import Adaptive
from retllm.jobs import coarse_stage, embedders, life
from retllm.jobs.announce import Announcement
from retllm.jobs.indexed import current_model, embedder_of, has_vector, is_ready
from retllm.jobs.schemas import AdaptiveRequest, SearchRequest
from retllm.settings import Settings, public_name

_LONGEST_KEY = 200

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class StoredPicture:
    """A query picture that is already in the storage."""

    key: str
    sha256: str


@dataclass(frozen=True)
class Submitted:
    """A job that is accepted (``created``), or the one that the same idempotency key made before."""

    job: Job
    units: list[Announcement]
    created: bool


def _insert_job(
    session: Session, user: User, collection_id: UUID, kind: JobKind, params: dict[str, Any], key: str | None
) -> tuple[Job, bool]:
    """The new job, or the one that this user's idempotency key stands for.

    Raises:
        Conflict: the key was used for a different request.
        InvalidInput: the key is empty or too long.
    """
    if key is not None and not 1 <= len(key) <= _LONGEST_KEY:
        raise InvalidInput(f"An Idempotency-Key has 1 to {_LONGEST_KEY} characters.")
    made = session.scalar(
        insert(Job)
        .values(
            id=new_id(), kind=kind, user_id=user.id, collection_id=collection_id, params=params, idempotency_key=key
        )
        .on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"])
        .returning(Job.id)
    )
    if made is not None:
        return session.get_one(Job, made), True
    before = session.scalars(sa.select(Job).filter_by(user_id=user.id, idempotency_key=key)).one()
    if (before.kind, before.collection_id, before.params) != (kind, collection_id, params):
        raise Conflict("This Idempotency-Key was used for a different request.", job_id=str(before.id))
    return before, False


def submit_index(
    session: Session,
    user: User,
    collection_id: UUID,
    settings: Settings,
    *,
    embedder: str | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """A job that embeds every item of the collection that has no vector of the embedders in force yet.

    With ``embedder`` it is by that one alone; else by all of them, that of the collection first.

    The list of items is frozen here, for each embedder its own; what comes later belongs to the next index job. A unit
    is of one embedder, so that one that can't be loaded fails its own units alone.

    Raises:
        NotFound: no such collection.
        Forbidden: this account may not change it.
        InvalidInput: the embedder is none of those in force.
        Conflict: the collection has no item, or the idempotency key stands for another request.
    """
    used = embedder_of(collection_for(session, user, collection_id, Right.CHANGE), settings)
    wanted = sorted(settings.embedders, key=lambda name: name != used)
    main, *further = wanted if embedder is None else [embedders.named(embedder, settings)]
    params: dict[str, Any] = {"embedder": main, "item_image_weight": settings.item_image_weight}
    if further:
        params["extra_embedders"] = further
    job, created = _insert_job(session, user, collection_id, JobKind.INDEX, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    ready = sa.select(Item.id).where(Item.collection_id == collection_id, is_ready())
    if session.scalar(ready.limit(1)) is None:
        raise Conflict("The collection is empty: upload something first.")
    payloads = _to_embed(session, ready, main, settings)
    for name in further:
        payloads += [{**payload, "embedder": name} for payload in _to_embed(session, ready, name, settings)]
    units = life.add_units(session, job, Stage.EMBED, payloads)
    life.settle(session, job)
    return Submitted(job, units, created=True)


def _to_embed(session: Session, ready: sa.Select[UUID], embedder: str, settings: Settings) -> list[dict[str, Any]]:
    """The units of the items among ``ready`` that lack a vector of the embedder."""
    model = current_model(session, embedder)
    if model is not None:
        ready = ready.where(~has_vector(model, settings.item_image_weight))
    wanted = [str(item) for item in session.scalars(ready.order_by(Item.id))]
    size = settings.index_unit_items
    return [{"items": wanted[start : start + size]} for start in range(0, len(wanted), size)]


def submit_search(
    session: Session,
    user: User,
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
    used = embedder_of(collection_for(session, user, collection_id), settings)
    text = _checked_text(request, settings, has_picture=picture is not None)
    params = request.model_dump(mode="json", exclude_none=True) | ({"picture": picture.sha256} if picture else {})
    search = _search_row(request, settings, used, text, picture)
    job, created = _insert_job(session, user, collection_id, JobKind.SEARCH, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    _demand_items(session, collection_id)
    coarse_stage.demand_indexed(session, collection_id, search)
    search.id = job.id
    session.add(search)
    session.flush()
    return Submitted(job, life.add_units(session, job, Stage.COARSE, [{}]), created=True)


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
    k = request.k if request.k is not None else min(settings.default_k, settings.max_k)
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
        coarse=coarse_stage.asked_for(request, settings, embedder, k, has_text=text is not None),
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


def _demand_items(session: Session, collection_id: UUID) -> None:
    ready = sa.select(Item.id).where(Item.collection_id == collection_id, Item.state == ItemState.READY).limit(1)
    if session.scalar(ready) is None:
        raise Conflict("The collection is empty: upload something first.")
