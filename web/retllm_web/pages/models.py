"""The embedders of a collection: what each has embedded, which one searches use, and how to switch."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.errors import RetllmError
from retllm_web.actions import reembedding
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused


@pages.get("/collections/<uuid:collection_id>/models")
def models(collection_id: UUID) -> ResponseReturnValue:
    """Show the embedders of a collection."""
    found, covered = reembedding.coverage(current_actor(), collection_id)
    return render_template("collection_models.html", collection=found, models=covered, settings=services().settings)


@pages.post("/collections/<uuid:collection_id>/models/index")
def index_with(collection_id: UUID) -> ResponseReturnValue:
    """Index the collection with one embedder."""
    name = _requested_embedder()
    try:
        job = reembedding.index_with(current_actor(), collection_id, name)
    except RetllmError as error:
        return refused(error, url_for("pages.models", collection_id=collection_id))
    return redirect(url_for("pages.job", job_id=job.id))


@pages.post("/collections/<uuid:collection_id>/models/use")
def use_model(collection_id: UUID) -> ResponseReturnValue:
    """Make searches use an embedder."""
    here = url_for("pages.models", collection_id=collection_id)
    name = _requested_embedder()
    try:
        reembedding.use(current_actor(), collection_id, name)
    except RetllmError as error:
        return refused(error, here)
    flash(f"Searches of this collection now use {name}. Earlier searches keep their embedder.", "success")
    return redirect(here)


@pages.post("/collections/<uuid:collection_id>/models/<uuid:model_id>/remove")
def remove_vectors(collection_id: UUID, model_id: UUID) -> ResponseReturnValue:
    """Remove the vectors of a model that is not in use."""
    here = url_for("pages.models", collection_id=collection_id)
    try:
        removed = reembedding.remove(current_actor(), collection_id, model_id)
    except RetllmError as error:
        return refused(error, here)
    flash(f"{removed:,} vectors removed." if removed else "There were no vectors to remove.", "success")
    return redirect(here)


def _requested_embedder() -> str:
    return request.form.get("embedder", "").replace("\0", "")[:500]
