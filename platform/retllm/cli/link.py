"""``retllm link``: links that open a collection or a result without an account."""

from __future__ import annotations

from uuid import UUID

import click

from retllm.cli import show
from retllm.cli.client import Api, connect, json_option

_COLLECTION = click.argument("collection", required=False)
_SEARCH = click.option("--search", type=click.UUID, help="Id of a search: its result instead of a collection.")


@click.group()
def link() -> None:
    """Create, list and revoke links that open a collection or a result without an account."""


@link.command()
@_COLLECTION
@_SEARCH
@click.option("--name", required=True, help="What the link is for.")
@click.option("--days", type=click.IntRange(1), help="Days until it ends; default: 30, or RETLLM_LINK_DAYS if less.")
@click.option("--downloads", is_flag=True, help="Let visitors download pictures.")
@json_option
def create(
    collection: str | None, search: UUID | None, name: str, days: int | None, downloads: bool, as_json: bool
) -> None:
    """Create a link to COLLECTION (a name or id), or to the result of a search; its address is shown only once."""
    api = connect()
    asked = {"name": name, "days": days, "downloads": downloads}
    made = api.call("POST", f"{_place(api, collection, search)}/links", json=asked)
    show.as_json(made) if as_json else click.echo(made["address"])


@link.command("list")
@_COLLECTION
@_SEARCH
@json_option
def list_links(collection: str | None, search: UUID | None, as_json: bool) -> None:
    """List the links to COLLECTION (a name or id) and to results in it, or those to the result of a search."""
    api = connect()
    rows = list(api.pages(f"{_place(api, collection, search)}/links", "links"))
    if as_json:
        show.as_json({"links": rows})
        return
    shown = [
        (
            row["name"],
            "a result" if row["search_id"] else "the collection",
            "yes" if row["downloads"] else "no",
            row["made_by"],
            row["uses"],
            row["last_used_at"] or "never",
            row["expires_at"],
            row["id"],
        )
        for row in rows
    ]
    show.table(("name", "opens", "downloads", "made by", "opened", "last used", "ends", "id"), shown)


@link.command()
@click.argument("link_id", type=click.UUID)
@json_option
def revoke(link_id: UUID, as_json: bool) -> None:
    """Revoke a link (an id of `retllm link list`): it opens nothing from then on."""
    connect().call("DELETE", f"/links/{link_id}")
    if as_json:
        show.as_json({"revoked": str(link_id)})
    else:
        click.echo("The link is revoked.")


def _place(api: Api, collection: str | None, search: UUID | None) -> str:
    """Return the path of what is shared."""
    if (collection is None) == (search is None):
        raise click.UsageError("Name a collection, or specify --search.")
    return f"/searches/{search}" if search else f"/collections/{api.collection(str(collection))['id']}"
