"""Submission of a search: job and unit in one transaction; the caller notifies the workers after the commit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from retllm.db.enums import ItemKind, JobKind, Stage, TokenScope
from retllm.db.searches import Search
from retllm.db.tables import Collection
from retllm.errors import Conflict, InvalidInput
from retllm.fine.injection import Injection
from retllm.fine.opening import configured_profile, served_settings
from retllm.fine.prompts import Mode
from retllm.fine.sources import decoder_layers
from retllm.identity.access import collection_for, require_scope
from retllm.identity.actor import Actor
from retllm.indexing.indexed import embedder_of, has_items
from retllm.queue import lifecycle
from retllm.queue.submission import Submitted, insert_job
from retllm.search import coarse, several
from retllm.search.request import SearchRequest, SeveralRequest, resolve
from retllm.search.settings import InjectionSettings, SearchSettings, in_force
from retllm.settings import Settings, public_name


@dataclass(frozen=True)
class StoredPicture:
    """A query picture in the storage."""

    key: str
    sha256: str


def submit_search(
    session: Session,
    actor: Actor,
    collection_id: UUID | None,
    request: SearchRequest,
    settings: Settings,
    *,
    picture: StoredPicture | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """Create a search job with its coarse unit; the fine units follow when that is done.

    Args:
        collection_id: the collection to search; None for a ``SeveralRequest``, which says which ones.

    Raises:
        NotFound: a collection does not exist.
        Forbidden: the actor has a smaller scope than ``search``.
        InvalidInput: the query is empty, a field is out of bounds, the scorer is not configured, or it can't do what
            the request asks for, or the filter names what not all may see; or ``all`` are too many collections.
        Conflict: a collection is empty or not indexed, or the idempotency key belongs to a different request.
    """
    settings = served_settings(settings, request.scorer)
    asked = several.asked(session, actor, request) if isinstance(request, SeveralRequest) else None
    if asked is None:
        assert collection_id is not None
        collections: Sequence[Collection] = [collection_for(session, actor, collection_id)]
        embedder = embedder_of(collections[0], settings)
    else:
        collections, embedder = asked.collections, several.main_embedder(asked, settings)
    require_scope(actor, TokenScope.SEARCH)
    text = _checked_text(request, settings, has_picture=picture is not None)
    params = request.model_dump(mode="json", exclude_none=True) | ({"picture": picture.sha256} if picture else {})
    search = _search_row(request, settings, embedder, text, picture)
    job, created = insert_job(session, actor, collection_id, JobKind.SEARCH, params, idempotency_key)
    if not created:
        return Submitted(job, [], created=False)
    coarse.require_filter(collections, search)
    search.id = job.id
    if asked is not None:
        several.add(session, asked, search)
    elif collection_id is not None:
        if not has_items(session, collection_id):
            raise Conflict("The collection is empty: upload something first.")
        coarse.require_indexed(session, collection_id, search)
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
    _check_remote(request, resolved, settings)
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


def _check_remote(request: SearchRequest, search: SearchSettings, settings: Settings) -> None:
    """Check that the search asks nothing of a scorer on a server that only a model in a worker can do.

    What the request sets to its default, as a form does with every field, is not asked for.

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
    usual = in_force(InjectionSettings, settings)
    for name, value in request.injection:
        if value is not None and value != usual[name]:
            raise InvalidInput(
                f"The scorer {address.name} runs on a server, where visual tokens can't be re-injected: leave out the "
                f"{InjectionSettings.model_fields[name].title} of the re-injection.",
                field=f"injection.{name}",
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
