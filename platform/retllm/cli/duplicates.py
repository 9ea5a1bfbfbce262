"""``retllm duplicates``: finds the pictures of a collection that are nearly the same."""

from __future__ import annotations

import click

from retllm.cli import show
from retllm.cli.client import Json, connect, json_option
from retllm.media.streams import size


@click.command()
@click.argument("collection")
@click.option("--known", is_flag=True, help="Show the groups that the last search found, and look for no others.")
@json_option
@click.pass_context
def duplicates(ctx: click.Context, collection: str, known: bool, as_json: bool) -> None:
    """Find the pictures of COLLECTION (name or id) that are nearly the same, and list them in groups.

    The first picture of a group is the one to keep. Nothing is deleted: the page of the collection's near-duplicates
    does that. The exit status is 1 if some pictures could not be compared.
    """
    api = connect()
    path = f"/collections/{api.collection(collection)['id']}/duplicates"
    state = "succeeded"
    if not known:
        state = show.follow(api, api.submit(path)["id"], quiet=as_json)["state"]
    groups = list(api.pages(path, "groups"))
    if as_json:
        show.as_json({"groups": groups})
    else:
        show.table(
            ("group", "name", "pixels", "size", "differs in", "id"),
            [_row(number, one) for number, group in enumerate(groups, 1) for one in group["pictures"]],
        )
        click.echo(f"{len(groups):,} {'group' if len(groups) == 1 else 'groups'}; review them at {api.page(path)}")
    ctx.exit(0 if state == "succeeded" else 1)


def _row(number: int, one: Json) -> tuple[object, ...]:
    item = one["item"]
    differs = f"{one['distance']} bits"
    pixels = f"{item['width']} × {item['height']}"
    return number if one["keep"] else None, item["name"], pixels, size(item["size_bytes"]), differs, item["id"]
