"""``retllm eval``: measures both stages on a benchmark, without server and database."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from retllm.cli import show
from retllm.cli.client import json_option
from retllm.errors import InvalidInput
from retllm.evaluation.benchmark import read_through_copies
from retllm.evaluation.benchmarks import LOADERS, NAMES, make_scenes
from retllm.evaluation.page import measure, percent, recall_figures, remarks, write_page
from retllm.evaluation.variants import Variant, ablations, chosen, for_choices
from retllm.fine import Injection
from retllm.fine.opening import served_settings
from retllm.search.request import SearchRequest, resolve
from retllm.settings import PRESETS, Settings, public_name

if TYPE_CHECKING:
    from retllm.embedding import Embedder
    from retllm.evaluation.benchmark import Benchmark, Task
    from retllm.evaluation.run import Result
    from retllm.fine.interface import FineScorer

Json = dict[str, Any]
DIRECTIONS = ("t2i", "i2t")
_SCORES, _RESULT, _PAGE = "scores.sqlite", "result.json", "result.html"


@click.command("eval")
@click.argument("benchmark", type=click.Choice(NAMES))
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of the benchmark; not needed for scenes."
)
@click.option(
    "--direction",
    type=click.Choice([*DIRECTIONS, "both"]),
    help="Text to image, image to text, or both (the default; for scenes t2i).",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="The pair of models.")
@click.option("--embedder", help="open_clip model in place of the preset's.")
@click.option("--scorer", help="transformers model in place of the preset's, or the address of one on a server.")
@click.option("-k", type=click.IntRange(min=1), help="Candidates of a query (default 10).")
@click.option(
    "--mode",
    type=click.Choice(["true_false", "verbalized", "choice"]),
    default="true_false",
    show_default=True,
    help="How the scorer is asked.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Maximum queries of each task, drawn by the seed.")
@click.option("--seed", type=int, default=101, show_default=True, help="Seed of scenes, --limit and intervals.")
@click.option(
    "--families", type=click.IntRange(min=1), default=64, show_default=True, help="Families of eight scenes (scenes)."
)
@click.option(
    "--pairs", type=click.IntRange(min=0), default=200, show_default=True, help="Hard pairs of each kind (scenes)."
)
@click.option(
    "--pictures",
    type=click.Choice(["copy", "original"]),
    help="Whether models read pictures through working copies, or as they are (default RETLLM_MODEL_PICTURES).",
)
@click.option("--ablate", is_flag=True, help="Run all ablations, values of k, modes and additions.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run (default RETLLM_HOME/evaluation/BENCHMARK-SEED).",
)
@json_option
def evaluate(
    benchmark: str,
    data: Path | None,
    direction: str | None,
    preset: str | None,
    embedder: str | None,
    scorer: str | None,
    k: int | None,
    mode: Any,
    limit: int | None,
    seed: int,
    families: int,
    pairs: int,
    pictures: Any,
    ablate: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure both stages on BENCHMARK and compare with the paper.

    Prints a table and writes all results to result.json and result.html in the folder of the run. Embeddings and scores
    are stored there too, so that the same command continues after an interruption.
    """
    settings = _settings(preset, embedder, scorer, pictures)
    loaded = make_scenes(families, pairs, seed) if benchmark == "scenes" else _load(benchmark, data)
    if direction is not None and not loaded.sections.keys() & set(DIRECTIONS):
        raise InvalidInput(f"{benchmark} has no directions; omit --direction.", field="direction")
    sections = _sections(loaded, direction or ("t2i" if benchmark == "scenes" else "both"), limit, seed)
    if settings.model_pictures == "copy":
        sections = {
            name: [read_through_copies(task, settings.copy_side) for task in tasks] for name, tasks in sections.items()
        }
    folder = out or settings.home_path / "evaluation" / f"{benchmark}-{seed}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"The folder {folder} can't be created ({error}). Choose another one with --out.") from error
    models = _models(settings)
    of_search = resolve(SearchRequest(), settings, public_name(settings.embedder_name))
    injection = Injection(**of_search.injection.model_dump())
    base = chosen(k or settings.k, mode, injection)
    variants = ablations(base, models[1].info.layers) if ablate else [base]
    try:
        result = _run(benchmark, seed, sections, variants, models, folder, quiet=as_json)
    except KeyboardInterrupt:
        show.say(f"Interrupted. The results so far are in {folder}; run the same command to continue.")
        raise
    (folder / _RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(result, folder / _PAGE)
    if as_json:
        show.as_json(result)
    else:
        _tables(result)
        show.say(f"Written to {folder / _RESULT} and {folder / _PAGE}")


def _settings(preset: str | None, embedder: str | None, scorer: str | None, pictures: str | None) -> Settings:
    """Return the settings with the given models; a given preset overrides models of the environment.

    A scorer of RETLLM_EXTRA_SCORERS has the revision, profile and key that stand there.
    """
    settings = Settings()
    if preset is not None:
        settings = settings.model_copy(update={"preset": preset, "embedder": None, "scorer": None})
    extra = next((one.name for one in settings.extra_scorers if scorer in (one.name, one.scorer)), None)
    if extra is not None:
        settings, scorer = served_settings(settings, extra), None
    given = {"embedder": embedder, "scorer": scorer, "model_pictures": pictures}
    named = {name: value for name, value in given.items() if value is not None}
    changed = settings.model_copy(update=named)
    try:
        address = changed.remote_scorer
    except ValueError as error:
        raise InvalidInput(f"{error}", field="scorer") from error
    return changed if address is None else changed.model_copy(update={"scorer_revision": None})


def _load(benchmark: str, data: Path | None) -> Benchmark:
    if data is None:
        raise InvalidInput(f"{benchmark} needs --data, the folder with its files.", field="data")
    return LOADERS[benchmark](data)


def _sections(loaded: Benchmark, direction: str, limit: int | None, seed: int) -> dict[str, list[Task]]:
    """Select the tasks of a direction, each with at most ``limit`` queries."""
    dropped = set() if direction == "both" else set(DIRECTIONS) - {direction}
    return {
        section: [task.limited(limit, seed) for task in tasks]
        for section, tasks in loaded.sections.items()
        if section not in dropped and tasks
    }


def _models(settings: Settings) -> tuple[Embedder, FineScorer]:
    import torch

    from retllm.embedding import load_embedder
    from retllm.fine.opening import open_scorer

    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    embedder = load_embedder(
        settings.embedder_name, device=settings.device, dtype=settings.dtype, picture_source=settings.picture_source
    )
    return embedder, open_scorer(settings)


class _Bars:
    """One progress bar for each stage, on standard error."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Add a bar; return the function that advances it."""
        task = self._bar.add_task(name, total=total)
        return lambda done: self._bar.advance(task, done)


def _run(
    benchmark: str,
    seed: int,
    sections: dict[str, list[Task]],
    variants: Sequence[Variant],
    models: tuple[Embedder, FineScorer],
    folder: Path,
    *,
    quiet: bool,
) -> Json:
    from retllm.evaluation.coarse import KeptVectors
    from retllm.evaluation.fine import CachingScorer
    from retllm.evaluation.report import report
    from retllm.evaluation.run import evaluate_section
    from retllm.evaluation.scores import KeptScores

    embedder, scorer = models
    bar = Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=show.console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
    results: list[Result] = []
    with bar, KeptScores(folder / _SCORES) as scores:
        kept, caching_scorer = KeptVectors(folder / "vectors", embedder), CachingScorer(scorer, scores)
        for section, tasks in sections.items():
            choice = tasks[0].kind == "choice"
            results += evaluate_section(
                section,
                tasks,
                for_choices(variants) if choice else variants,
                kept,
                caching_scorer,
                _Bars(bar),
                abstain=benchmark == "scenes" and not choice,
            )
    return report(benchmark, seed, embedder.info, scorer.info, results)


def _tables(result: Json) -> None:
    for section in dict.fromkeys(variant["section"] for variant in result["variants"]):
        variants = [variant for variant in result["variants"] if variant["section"] == section]
        show.table(
            ("variant", "k", "coarse @1", "@1", "95 %", "@5", "@10", "pairs/query", "seconds", "paper"),
            [_row(variant) for variant in variants],
            f"{result['benchmark']}, {section}, {variants[0]['queries']} queries, seed {result['seed']}: "
            f"{measure(section)}, in percent",
        )
        first = variants[0]
        if "parts" in first:
            parts = {**first["parts"], **{f"{name} (mean)": group for name, group in first["groups"].items()}}
            rows = [
                (name, part["queries"], percent(part["coarse"]), percent(part["fine"]), percent(part.get("paper")))
                for name, part in parts.items()
            ]
            show.table(("part", "queries", "coarse", "fine", "paper"), rows, "")
        if "abstention" in first:
            found = first["abstention"]
            click.echo(
                f"\nNo good match: {percent(found['right'])} % right ({percent(found['matched'])} with a match in the "
                f"gallery, {percent(found['refused'])} without), AUROC {found['auroc']:.4f}."
            )
        for sentence in remarks(variants):
            click.echo(sentence)
        click.echo()


def _row(variant: Json) -> tuple[object, ...]:
    """Return a row of the table; values that a skipped variant lacks are empty."""
    return (
        *recall_figures(variant),
        variant["pairs_per_query"],
        variant["seconds"],
        percent((variant.get("paper") or {}).get("r1")),
    )
