"""``retllm map``: lays out the items of a collection on a map."""

from __future__ import annotations

import click

from retllm.cli import show
from retllm.cli.client import connect, json_option


@click.command("map")
@click.argument("collection")
@click.option("--known", is_flag=True, help="Show what is known of the map that is there, and make no other one.")
@json_option
@click.pass_context
def map_collection(ctx: click.Context, collection: str, known: bool, as_json: bool) -> None:
    """Make the map of COLLECTION (name or id): what is alike to the main embedder comes near to each other.

    It replaces the earlier map. The page that is named at the end shows it. The exit status is 1 if the map could not
    be made.
    """
    api = connect()
    path = f"/collections/{api.collection(collection)['id']}/map"
    state = "succeeded"
    if not known:
        state = show.follow(api, api.submit(path)["id"], quiet=as_json)["state"]
    found = api.get(path)
    if as_json:
        show.as_json(found)
    elif found["made_at"] is None:
        click.echo("There is no map yet.")
    else:
        late = " It is out of date: items were indexed since." if found["out_of_date"] else ""
        click.echo(f"{found['items']:,} items on the map of {found['made_at']}; see it at {api.page(path)}.{late}")
    ctx.exit(0 if state == "succeeded" else 1)
