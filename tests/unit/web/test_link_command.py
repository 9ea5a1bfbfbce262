"""`retllm link` creates, lists and revokes links."""

from __future__ import annotations

import json

import click
import pytest
from flask.testing import FlaskClient
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Searched, indexed, searched, texts

from retllm.cli.link import link

__all__ = ["indexed", "searched", "texts"]


def path(output: str) -> str:
    return "/s/" + lines(output)[-1].rpartition("/s/")[2].strip()


def test_a_link_is_created_listed_and_revoked(run: Run, client: FlaskClient, birds: str) -> None:
    opened = path(run(link, "create", "Birds", "--name", "the family", "--days", 7, "--downloads").stdout)
    assert client.get(opened).status_code == 200
    [listed] = json.loads(lines(run(link, "list", birds, "--json").stdout)[0])["links"]
    assert (listed["name"], listed["downloads"], listed["uses"]) == ("the family", True, 1)
    shown = run(link, "list", "Birds").stdout
    assert "the family" in shown
    assert opened.removeprefix("/s/") not in shown
    assert "revoked" in run(link, "revoke", listed["id"]).stdout
    assert client.get(opened).status_code == 404


def test_a_link_opens_the_result_of_a_search(run: Run, client: FlaskClient, ada: Caller, searched: Searched) -> None:
    opened = path(run(link, "create", "--search", searched.id, "--name", "n").stdout)
    assert "a small bird" in client.get(opened).text
    assert "a result" in run(link, "list", "--search", searched.id).stdout


@pytest.mark.parametrize("arguments", [(), ("Birds", "--search", "019b0000-0000-7000-8000-000000000000")])
def test_either_a_collection_or_a_search_is_named(run: Run, birds: str, arguments: tuple[str, ...]) -> None:
    assert run(link, "create", *arguments, "--name", "n").exit_code == click.UsageError.exit_code
