"""Runs `retllm` against the app of a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from flask_openapi import OpenAPI
from tests.unit.web.pictures import picture

from retllm.cli import collections, download, duplicates, folder_import, jobs, link, maps, ocr, search, trash, upload
from retllm.cli.client import Api

if TYPE_CHECKING:
    from tests.unit.web.conftest import Caller

Run = Callable[..., Result]


@pytest.fixture
def run(app: OpenAPI, ada: Caller, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command as ada."""
    http = httpx.Client(
        transport=httpx.WSGITransport(app),
        base_url="http://retllm.test/api/v1/",
        headers={"Authorization": f"Bearer {ada.token}"},
    )
    for module in (upload, download, folder_import, jobs, collections, link, search, trash, duplicates, maps, ocr):
        monkeypatch.setattr(module, "connect", lambda: Api(http))

    def invoke(command: click.Command, *arguments: object) -> Result:
        return CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)

    return invoke


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def folder(empty: Path) -> Path:
    """A folder of six pictures."""
    for number in range(6):
        (empty / f"{number}.png").write_bytes(picture(f"rgb({number * 20}, 9, 9)"))
    return empty


def lines(output: str) -> list[str]:
    """Return what a command printed; the server logs to the same output."""
    return [line for line in output.splitlines() if not re.match(r"\d{4}-", line)]


def the_job(ada: Caller, collection: str) -> str:
    (job,) = ada.get(f"/jobs?collection={collection}").json["jobs"]
    return str(job["id"])


def files(ada: Caller, job: str) -> list[tuple[str, str, str | None]]:
    rows = ada.get(f"/uploads/{job}/files").json["files"]
    return sorted((row["name"], row["status"], row["error"] and row["error"]["message"]) for row in rows)
