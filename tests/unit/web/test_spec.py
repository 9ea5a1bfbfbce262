"""The OpenAPI document."""

from __future__ import annotations

import enum
import inspect
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest

from retllm.settings import Settings
from retllm_web.api.spec import DOCUMENT_PATH
from retllm_web.app import create_app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document; this app needs no servers."""
    unused = Settings(
        home=Path("unused"),
        secret_key=secrets.token_hex(),
        database_url="postgresql://unused",
        redis_url="redis://unused",
    )
    found: dict[str, Any] = create_app(unused).test_client().get(DOCUMENT_PATH).json
    return found


@pytest.fixture(scope="module")
def schemas(document: dict[str, Any]) -> dict[str, dict[str, object]]:
    """The schemas of the document."""
    found: dict[str, dict[str, object]] = document["components"]["schemas"]
    return found


def _classes() -> dict[str, set[type]]:
    """Return every model and enum that the API may use, by name; pages have their own."""
    found: dict[str, set[type]] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(("retllm.", "retllm_web.")) and not name.startswith("retllm_web.pages"):
            for one in vars(module).values():
                known = inspect.isclass(one) and issubclass(one, pydantic.BaseModel | enum.Enum)
                if known and one.__module__.startswith(("retllm.", "retllm_web.")):
                    found.setdefault(one.__name__, set()).add(one)
    return found


def test_no_two_classes_share_the_name_of_a_schema(schemas: dict[str, dict[str, object]]) -> None:
    # the later one would silently replace the other
    classes = _classes()
    assert {name for name in schemas if len(classes.get(name, ())) > 1} == set()


def test_schemas_of_maps_describe_their_values(schemas: dict[str, dict[str, object]]) -> None:
    maps = {
        f"{name}.{field}": shape
        for name, schema in schemas.items()
        for field, shape in (schema.get("properties") or {}).items()  # type: ignore[attr-defined]
        if shape.get("type") == "object" and "properties" not in shape
    }
    assert "ReportVariant.parts" in maps
    assert {name for name, shape in maps.items() if "additionalProperties" not in shape} == set()


def test_no_description_has_markup(document: dict[str, Any]) -> None:
    assert "<br" not in json.dumps(document)
