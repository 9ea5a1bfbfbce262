"""The API against its own OpenAPI document: generated requests, right and wrong ones, on a real database.

Every answer must have a status, a media type and a body that the document names; wrong requests must be refused and
right ones accepted; nothing may end in a 500.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import schemathesis
import sqlalchemy as sa
from argon2 import PasswordHasher
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.functional.contract import mended, picture
from tests.soak import scaled

from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.db.tables import Embedding, EmbeddingModel, Item, new_id
from retllm.identity import accounts, passwords, tokens
from retllm.identity.actor import Actor
from retllm.settings import Settings, public_name
from retllm_web.app import create_app

EXAMPLES = scaled(10, 100)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SOUND = GenerationMode.POSITIVE
JUDGED = {GenerationMode.POSITIVE: positive_data_acceptance, GenerationMode.NEGATIVE: negative_data_rejection}


@pytest.fixture(scope="module")
def known(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An app with an account, an indexed collection, items, a token and jobs; and the keys of all of these."""
    with pytest.MonkeyPatch.context() as patched:
        # one that is made to be slow takes longer than all else
        patched.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        made = Settings(home=tmp_path_factory.mktemp("api"), database_url=database_url, redis_url=redis_url)
        app = create_app(made)
        sessions = app.extensions["retllm"].sessions
        with transaction(sessions) as session:
            # an administrator, or half of the routes would only be seen to refuse
            user = accounts.create_user(session, f"contract-{new_id()}", "a long password", Role.ADMIN)
            other = accounts.create_user(session, f"other-{new_id()}", "a long password", Role.EDITOR)
            _, token = tokens.issue(session, tokens.token_key(made), Actor.unlimited(user), "contract")
        headers = {"Authorization": f"Bearer {token}"}
        client = app.test_client()
        collection = client.post("/api/v1/collections", json={"name": "Seeds"}, headers=headers).json["id"]
        files = [(io.BytesIO(picture()), "red.png"), (io.BytesIO(b"a robin"), "robin.txt")]
        uploaded = client.post(
            f"/api/v1/collections/{collection}/items",
            data={"file": files},
            content_type="multipart/form-data",
            headers=headers,
        ).json
        _index(sessions, UUID(collection), made)
        search = client.post(
            f"/api/v1/collections/{collection}/searches",
            data={"picture": (io.BytesIO(picture()), "q.png")},
            content_type="multipart/form-data",
            headers=headers,
        ).json
        yield {
            "app": app,
            "headers": headers,
            "collection_id": collection,
            "item_id": uploaded["outcomes"][0]["item_id"],
            "job_id": uploaded["job_id"],
            "search_id": search["id"],
            "user_id": str(other.id),
            "run_id": client.post("/api/v1/evaluations", json={"report": _report()}, headers=headers).json["id"],
            "queue": "embed",
            "embedder": public_name(made.embedder_name),
        }


def _report() -> dict[str, Any]:
    """A report of `retllm eval` with all that it must have."""
    figures: dict[str, Any] = {"coarse": {"r1": 0.5}, "fine": {"r1": 0.75}}
    variant = {"name": "all", "section": "t2i", "k": 1, "mode": "true_false", "queries": 4, **figures}
    return {"benchmark": "scenes", "seed": 1, "models": {"embedder": "e", "scorer": "s"}, "variants": [variant]}


def _index(sessions: Any, collection_id: UUID, made: Settings) -> None:
    """A vector for each item, as a worker would write it."""
    with transaction(sessions) as session:
        model = EmbeddingModel(
            id=new_id(),
            name=public_name(made.embedder_name),
            revision=str(new_id()),
            dimension=2,
            preprocessing_hash="h",
        )
        session.add(model)
        session.flush()
        for item in session.scalars(sa.select(Item).where(Item.collection_id == collection_id)):
            session.add(
                Embedding(
                    token=new_id(),
                    item_id=item.id,
                    model_id=model.id,
                    collection_id=collection_id,
                    item_version=1,
                    image_weight=made.item_image_weight,
                    vector=[1.0, 0.0],
                )
            )


@pytest.fixture(scope="module")
def api_schema(known: dict[str, Any]) -> Any:
    """The document, as the app serves it."""
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", known["app"])
    # NUL and extra parameters have tests of their own
    schema.config.generation.allow_x00 = False
    schema.config.generation.with_security_parameters = False
    return schema


def _cases() -> list[Any]:
    """Every route, asked rightly and, where it takes anything, wrongly; this app is only read, it needs no servers."""
    unused = Settings(
        home=Path("unused"),
        secret_key=secrets.token_hex(),
        database_url="postgresql://unused",
        redis_url="redis://unused",
    )
    return [
        pytest.param(path, method, mode, id=f"{method}-{path.removeprefix('/api/v1/')}-{mode.value}")
        for path, operations in create_app(unused).api_doc["paths"].items()
        for method, operation in operations.items()
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or "parameters" in operation or "requestBody" in operation
    ]


@pytest.mark.parametrize(("path", "method", "mode"), _cases())
def test_the_api_keeps_its_document(
    api_schema: Any, known: dict[str, Any], path: str, method: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(api_schema[path][method].as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        wrong = {where for where, component in case.meta.components.items() if component.mode is not SOUND}
        if ParameterLocation.PATH not in wrong and method != "delete":
            # name things that are there
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
        if "requestBody" in api_schema[path][method].definition.raw and ParameterLocation.BODY not in wrong:
            case.body = mended(path, case.body, known["embedder"])
        case.call_and_validate(headers=known["headers"], checks=[*CHECKS, JUDGED[mode]])

    check()
