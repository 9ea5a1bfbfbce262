"""``retllm collections``: list, make and delete collections."""

from __future__ import annotations

import click

from retllm.cli import show
from retllm.cli.client import connect, json_option


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def collections(ctx: click.Context, as_json: bool) -> None:
    """List the collections; with a command, make or delete one."""
    if ctx.invoked_subcommand is not None:
        return
    rows = list(connect().pages("/collections", "collections"))
    if as_json:
        show.as_json({"collections": rows})
        return
    show.table(
        ("name", "items", "indexed", "owner", "id"),
        [(row["name"], row["items_total"], row["items_indexed"], row["owner"], row["id"]) for row in rows],
    )


@collections.command()
@click.argument("name")
@click.option("--description", default="", help="What is in it.")
@json_option
def create(name: str, description: str, as_json: bool) -> None:
    """Make the collection NAME."""
    made = connect().call("POST", "/collections", json={"name": name, "description": description})
    if as_json:
        show.as_json(made)
    else:
        click.echo(f"Made {made['name']} ({made['id']}).")


@collections.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def delete(name: str, yes: bool, as_json: bool) -> None:
    """Delete the collection NAME (or id): its items, files, jobs and results."""
    api = connect()
    found = api.collection(name)
    if not yes:
        click.confirm(f"Delete {found['name']} with {found['items_total']} items and all results?", abort=True)
    api.call("DELETE", f"/collections/{found['id']}")
    if as_json:
        show.as_json({"deleted": found["id"]})
    else:
        click.echo(f"Deleted {found['name']}.")
