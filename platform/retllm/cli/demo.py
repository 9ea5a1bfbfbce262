"""``retllm demo``: the whole way on a collection of its own, then the dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from retllm.cli import show
from retllm.cli.up import run_stack
from retllm.settings import PRESETS
from retllm.stack.local import LocalStack


@click.command()
@click.option("--once", is_flag=True, help="End after the search instead of leaving the dashboard open.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="The pair of models.")
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of your own pictures in place of the procedural scenes.",
)
@click.option("--query", help="A text to search for.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the dashboard; 0 takes any free one.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of data and logs.")
def demo(
    once: bool, preset: str | None, photos: Path | None, query: str | None, port: int | None, home: Path | None
) -> None:
    """Start the platform, upload a collection, search it, and compare the coarse order with the final one.

    The last line is one JSON object. Without --once the dashboard stays open until Ctrl-C.
    """
    # nobody opens the dashboard of a run that ends by itself, so any port will do
    given = {"preset": preset, "home": home, "port": 0 if once and port is None else port}

    ended: list[dict[str, object]] = []

    def tour(stack: LocalStack) -> None:
        from retllm.cli.client import open_api
        from retllm.cli.tour import run_tour
        from retllm.stack.client_file import read_client

        api = open_api(stack.url, read_client(stack.home)["token"])
        ended.append(run_tour(api, photos, query))
        if not once:
            show.say(f"The dashboard is open at {stack.url} until Ctrl-C.")
            show.as_json(ended[0])

    run_stack(given, as_json=False, after_start=tour, stay=not once)
    if once and ended:
        show.as_json(ended[0])
