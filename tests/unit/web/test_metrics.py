"""/metrics is off without a token, and requires that token."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from retllm.settings import Settings
from retllm_web.app import create_app

TOKEN = "a token for scrapes"


@pytest.fixture
def scraped(settings: Settings) -> FlaskClient:
    """A client of an app with a metrics token."""
    return create_app(settings.model_copy(update={"metrics_token": TOKEN})).test_client()


@pytest.mark.parametrize("token", [None, ""])
def test_metrics_return_404_without_a_configured_token(settings: Settings, token: str | None) -> None:
    client = create_app(settings.model_copy(update={"metrics_token": token})).test_client()
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == 404
        assert answer.json is not None
        assert answer.json["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "given", [None, "Bearer", "Bearer no", f"Basic {TOKEN}", TOKEN, "Bearer \xe9", f"Bearer {TOKEN}x"]
)
def test_an_invalid_token_is_rejected(scraped: FlaskClient, given: str | None) -> None:
    answer = scraped.get("/metrics", headers={} if given is None else {"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "retllm_queue_depth" not in answer.text


def test_the_token_of_an_administrator_is_rejected(scraped: FlaskClient, root) -> None:
    assert scraped.get("/metrics", headers={"Authorization": f"Bearer {root.token}"}).status_code == 401


def test_prometheus_can_parse_the_metrics(scraped: FlaskClient) -> None:
    answer = scraped.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    kinds = {
        name: families[name].type for name in ("retllm_queue_depth", "retllm_fenced_writes", "retllm_unit_seconds")
    }
    assert kinds == {
        "retllm_queue_depth": "gauge",
        "retllm_fenced_writes": "counter",
        "retllm_unit_seconds": "histogram",
    }
    assert all(family.documentation for family in families.values())
    assert {sample.labels["queue"] for sample in families["retllm_queue_hints"].samples} == {
        "query",
        "media",
        "embed",
        "score",
    }


def test_metrics_omit_the_hints_if_redis_is_unreachable(settings: Settings) -> None:
    away = settings.model_copy(update={"metrics_token": TOKEN, "redis_url": "redis://127.0.0.1:1/0"})
    answer = create_app(away).test_client().get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert "retllm_queue_hints" not in answer.text
    assert "retllm_queue_depth" in answer.text


def test_metrics_return_503_without_the_password_if_the_database_is_unreachable(settings: Settings) -> None:
    away = settings.model_copy(
        update={"metrics_token": TOKEN, "database_url": "postgresql://nobody:secret@127.0.0.1:1/none"}
    )
    answer = create_app(away).test_client().get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 503
    assert "secret" not in answer.text
