"""``retllm collections``: list, create, change and delete collections, and manage their embeddings."""

from __future__ import annotations

from uuid import UUID

import click

from retllm.cli import show
from retllm.cli.client import Json, connect, json_option


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def collections(ctx: click.Context, as_json: bool) -> None:
    """List the collections; with a command, create, change or delete one."""
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
                _seen_by(row),
                row["id"],
            )
            for row in rows
        ],
    )


def _seen_by(row: Json) -> str:
    if row["visibility"] == "everyone" or not row["members"]:
        return str(row["visibility"])
    return f"shared with {row['members']:,}"


@collections.command()
@click.argument("name")
@click.option("--description", default="", help="Description of the contents.")
@click.option("--language", help="Language of its texts and captions for full-text search; default: english.")
@json_option
def create(name: str, description: str, language: str | None, as_json: bool) -> None:
    """Create the collection NAME."""
    asked = {"name": name, "description": description} | ({"language": language} if language else {})
    created = connect().call("POST", "/collections", json=asked)
    if as_json:
        show.as_json(created)
    else:
        click.echo(f"Created {created['name']} ({created['id']}), language {created['language']}.")


@collections.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@json_option
def delete(name: str, yes: bool, as_json: bool) -> None:
    """Delete the collection NAME (or id) with its items, files, jobs and results; `retllm trash` can restore it."""
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
@click.option("--name", "new_name", help="New name.")
@click.option("--description", help="New description.")
@click.option("--language", help="New language of its texts and captions for full-text search.")
@click.option(
    "--positions",
    type=click.Choice(["everyone", "editors", "nobody"]),
    help="Who sees where its items were made; nobody: positions are erased for good.",
)
@json_option
def change(name: str, as_json: bool, **asked: str | None) -> None:
    """Change the name, description or language of the collection NAME (or id), or who sees positions."""
    changes = {key.removeprefix("new_"): value for key, value in asked.items() if value is not None}
    if not changes:
        raise click.UsageError("Specify --name, --description, --language or --positions.")
    api = connect()
    changed = api.call("PATCH", f"/collections/{api.collection(name)['id']}", json=changes)
    if as_json:
        show.as_json(changed)
    else:
        click.echo(f"Changed {changed['name']}.")


@collections.command()
@click.argument("name")
@json_option
def models(name: str, as_json: bool) -> None:
    """List the embedders of the collection NAME (or id) with their progress."""
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
                _embedder_state(row),
                row["embedded"],
                row["failed"],
                row["missing"],
                row["vectors"],
                row["model_id"],
            )
            for row in rows
        ],
    )


def _embedder_state(row: Json) -> str:
    if row["in_use"]:
        return "in use"
    return "in force" if row["in_force"] else "not in force"


@collections.command()
@click.argument("name")
@click.option("--with", "embedder", help="Embed with this embedder only; default: all that are in force.")
@json_option
@click.pass_context
def index(ctx: click.Context, name: str, embedder: str | None, as_json: bool) -> None:
    """Embed the items of the collection NAME (or id) that lack embeddings, and wait.

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
    """Make EMBEDDER the main embedder of the collection NAME (or id); without it, use the server's settings."""
    api = connect()
    changed = api.call("PATCH", f"/collections/{api.collection(name)['id']}", json={"embedder": embedder})
    if as_json:
        show.as_json(changed)
    else:
        click.echo(f"Searches of {changed['name']} use {changed['embedder']}.")


@collections.command("remove-vectors")
@click.argument("name")
@click.argument("model", type=click.UUID)
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@json_option
def remove_vectors(name: str, model: UUID, yes: bool, as_json: bool) -> None:
    """Delete the embeddings by MODEL (an id of `retllm collections models`) in NAME, unless searches use them."""
    api = connect()
    found = api.collection(name)
    if not yes:
        click.confirm(f"Delete the embeddings by {model} in {found['name']}?", abort=True)
    removed = api.call("DELETE", f"/collections/{found['id']}/embedders/{model}")
    if as_json:
        show.as_json(removed)
    else:
        click.echo(f"Deleted {removed['vectors']} embeddings.")
