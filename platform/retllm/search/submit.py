"""Submission of a search: job and unit in one transaction; the caller notifies the workers after the commit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, ItemState, JobKind, Stage, TokenScope
from retllm.db.searches import Search
from retllm.db.tables import Item
from retllm.errors import Conflict, InvalidInput
from retllm.fine.injection import Injection
from retllm.fine.opening import configured_profile, served_settings
from retllm.fine.prompts import Mode
from retllm.fine.sources import decoder_layers
from retllm.identity.access import collection_for, require_scope
from retllm.identity.actor import Actor
from retllm.indexing.indexed import embedder_of
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, insert_job
from retllm.search import coarse
from retllm.search.request import SearchRequest, resolve
from retllm.search.settings import SearchSettings
from retllm.settings import Settings, public_name


@dataclass(frozen=True)
class StoredPicture:
    """A query picture in the storage."""

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
    """Create a search job with its coarse unit; the fine units follow when that is done.

    Raises:
        NotFound: the collection does not exist.
        Forbidden: the actor has a smaller scope than ``search``.
        InvalidInput: the query is empty, a field is out of bounds, the scorer is not configured, or it can't do what
            the request asks for.
        Conflict: the collection is empty or not indexed, or the idempotency key belongs to a different request.
    """
    settings = served_settings(settings, request.scorer)
    embedder = embedder_of(collection_for(session, actor, collection_id), settings)
    require_scope(actor, TokenScope.SEARCH)
    text = _checked_text(request, settings, has_picture=picture is not None)
    params = request.model_dump(mode="json", exclude_none=True) | ({"picture": picture.sha256} if picture else {})
    search = _search_row(request, settings, embedder, text, picture)
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
        raise InvalidInput("The query text contains a NUL character.", field="text")
    return text


def _search_row(
    request: SearchRequest, settings: Settings, embedder: str, text: str | None, picture: StoredPicture | None
) -> Search:
    resolved = resolve(request, settings, embedder)
    columns = resolved.columns()
    _check_remote(resolved, settings)
    _check_mode(resolved.mode, settings)
    _check_layers(Injection.from_json(columns["injection"]), settings)
    kind_with_picture = ItemKind.BOTH if text else ItemKind.IMAGE
    return Search(
        kind=ItemKind.TEXT if picture is None else kind_with_picture,
        query_text=text,
        query_picture_key=picture.key if picture else None,
        query_picture_sha256=picture.sha256 if picture else None,
        question=question_of(text, picture.sha256 if picture else None),
        embedder=embedder,
        scorer=public_name(settings.scorer_name),
        scorer_revision=settings.scorer_revision,
        unit_candidates=settings.score_unit_candidates,
        coarse=coarse.plan(resolved, embedder, has_text=text is not None),
        **columns,
    )


def _check_remote(search: SearchSettings, settings: Settings) -> None:
    """Check that the search asks nothing of a scorer on a server that only a model in a worker can do.

    Raises:
        InvalidInput: it does.
    """
    address = settings.remote_scorer
    if address is None:
        return
    if Injection(**search.injection.model_dump()).active:
        raise InvalidInput(
            f"The scorer {address.name} runs on a server, where visual tokens can't be re-injected: set the trigger "
            "of the re-injection to off.",
            field="injection.trigger",
        )
    if search.trace:
        raise InvalidInput(
            f"The scorer {address.name} runs on a server, which does not tell what its layers do: omit the trace.",
            field="trace",
        )
    if address.protocol == "rerank" and search.mode != "true_false":
        raise InvalidInput(
            f"The scorer {address.name} is a reranker, which has a question of its own: use the mode true_false.",
            field="mode",
        )


def _check_mode(mode: Mode, settings: Settings) -> None:
    """Check that the profile of the scorer has the mode, if the profile is known on this machine.

    Raises:
        InvalidInput: it does not.
    """
    # every profile has this one
    profile = None if mode == "true_false" else configured_profile(settings)
    if profile is not None and mode not in profile.modes:
        raise InvalidInput(
            f"The profile {profile.name} of the scorer has no mode {mode}: use {' or '.join(profile.modes)}.",
            field="mode",
        )


def _check_layers(injection: Injection, settings: Settings) -> None:
    """Check that the scorer has the layers that the search names, if its files are on this machine.

    Raises:
        InvalidInput: it has fewer.
    """
    if injection.active and (injection.trigger == "fixed" or injection.end is not None):
        layers = decoder_layers(settings.scorer_name, settings.scorer_revision)
        if layers is not None:
            injection.plan(layers)


def question_of(text: str | None, picture_sha256: str | None) -> str:
    """Return a hash of the query, independent of the settings of the search."""
    return hashlib.sha256(f"{text or ''}\0{picture_sha256 or ''}".encode()).hexdigest()


def _require_items(session: Session, collection_id: UUID) -> None:
    ready = sa.select(Item.id).where(Item.collection_id == collection_id, Item.state == ItemState.READY).limit(1)
    if session.scalar(ready) is None:
        raise Conflict("The collection is empty: upload something first.")
