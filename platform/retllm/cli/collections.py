"""``retllm collections``: list, make, change and delete collections, and change what embeds them."""

from __future__ import annotations

import click

from retllm.cli import show
from retllm.cli.client import Json, connect, json_option


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def collections(ctx: click.Context, as_json: bool) -> None:
    """List the collections; with a command, make, change or delete one."""
    if ctx.invoked_subcommand is not None:
        return
    rows = list(connect().pages("/collections", "collections"))
    if as_json:
        show.as_json({"collections": rows})
        return
    show.table(
        ("name", "items", "indexed", "failed", "owner", "seen by", "id"),
        [
            (
                row["name"],
                row["items_total"],
                row["items_indexed"],
                row["items_failed"],
                row["owner"],
                row["visibility"],
                row["id"],
            )
            for row in rows
        ],
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


@collections.command()
@click.argument("name")
@click.option("--name", "new_name", help="Another name.")
@click.option("--description", help="Another description.")
@json_option
def change(name: str, new_name: str | None, description: str | None, as_json: bool) -> None:
    """Give the collection NAME (or id) another name or description."""
    asked = {key: value for key, value in (("name", new_name), ("description", description)) if value is not None}
    if not asked:
        raise click.UsageError("Say what to change: --name or --description.")
    api = connect()
    changed = api.call("PATCH", f"/collections/{api.collection(name)['id']}", json=asked)
    if as_json:
        show.as_json(changed)
    else:
        click.echo(f"Changed {changed['name']}.")


@collections.command()
@click.argument("name")
@json_option
def models(name: str, as_json: bool) -> None:
    """Say what each embedder has embedded in the collection NAME (or id)."""
    api = connect()
    rows = api.get(f"/collections/{api.collection(name)['id']}/embedders")["embedders"]
    if as_json:
        show.as_json({"embedders": rows})
        return
    show.table(
        ("embedder", "", "embedded", "failed", "missing", "vectors", "model"),
        [
            (
                row["name"],
                _standing(row),
                row["embedded"],
                row["failed"],
                row["missing"],
                row["vectors"],
                row["model_id"],
            )
            for row in rows
        ],
    )


def _standing(row: Json) -> str:
    if row["in_use"]:
        return "in use"
    return "in force" if row["in_force"] else "not in force"


@collections.command()
@click.argument("name")
@click.option("--with", "embedder", help="One embedder alone, beside the others; without it all that are in force.")
@json_option
@click.pass_context
def index(ctx: click.Context, name: str, embedder: str | None, as_json: bool) -> None:
    """Embed what is missing in the collection NAME (or id), and wait for it.

    The exit status is 1 if something failed.
    """
    api = connect()
    path = f"/collections/{api.collection(name)['id']}"
    if embedder is None:
        job = api.submit(f"{path}/index")
    else:
        job = api.submit(f"{path}/embedders/index", json={"embedder": embedder})
    job = show.follow(api, job["id"], quiet=as_json)
    if as_json:
        show.as_json(job)
    ctx.exit(0 if job["state"] == "succeeded" else 1)


@collections.command()
@click.argument("name")
@click.argument("embedder", required=False)
@json_option
def use(name: str, embedder: str | None, as_json: bool) -> None:
    """Let searches of the collection NAME (or id) use EMBEDDER first; without one they follow the server's settings."""
    api = connect()
    changed = api.call("PATCH", f"/collections/{api.collection(name)['id']}", json={"embedder": embedder})
    if as_json:
        show.as_json(changed)
    else:
        click.echo(f"Searches of {changed['name']} use {changed['embedder']}.")


@collections.command("remove-vectors")
@click.argument("name")
@click.argument("model")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def remove_vectors(name: str, model: str, yes: bool, as_json: bool) -> None:
    """Remove what MODEL (its key in `retllm collections models`) has embedded in NAME, if searches don't use it."""
    api = connect()
    found = api.collection(name)
    if not yes:
        click.confirm(f"Remove the vectors of {model} from {found['name']}?", abort=True)
    gone = api.call("DELETE", f"/collections/{found['id']}/embedders/{model}")
    if as_json:
        show.as_json(gone)
    else:
        click.echo(f"Removed {gone['vectors']} vectors.")
