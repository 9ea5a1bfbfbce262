"""The result of an evaluation as JSON values (the format is part of the command line's contract)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retllm.evaluation import published
from retllm.evaluation.abstention import Abstention
from retllm.evaluation.metrics import AT, Hits, interval, mean_of_parts
from retllm.evaluation.run import Part, Result
from retllm.settings import public_name

if TYPE_CHECKING:
    from retllm.embedding import EmbedderInfo
    from retllm.fine import ScorerInfo

Json = dict[str, Any]
_DIGITS = 4


def report(benchmark: str, seed: int, embedder: EmbedderInfo, scorer: ScorerInfo, results: Sequence[Result]) -> Json:
    """Return ``{"benchmark", "seed", "models", "variants": [...]}``; shares are 0 to 1, rounded to four decimals."""
    return {
        "benchmark": benchmark,
        "seed": seed,
        "models": {
            "embedder": public_name(embedder.name),
            "embedder_revision": embedder.revision,
            "scorer": public_name(scorer.model),
            "scorer_revision": scorer.revision,
            "prompt_version": scorer.prompt_version,
            "device": scorer.device,
            "dtype": scorer.dtype,
        },
        "variants": [_variant(benchmark, seed, result, results) for result in results],
    }


def _variant(benchmark: str, seed: int, result: Result, results: Sequence[Result]) -> Json:
    variant, parts = result.variant, result.parts
    same = [other for other in results if other.section == result.section]
    paper = published.of_variant(benchmark, result.section, variant.name, ablated=len(same) > 1)
    entry: Json = {
        "name": variant.name,
        "section": result.section,
        "k": variant.k,
        "mode": variant.mode,
        "injection": variant.injection.as_json(),
        "entropy": variant.entropy,
        "adaptive": None if variant.adaptive is None else variant.adaptive.as_json(),
        "fusion": variant.fusion,
    }
    if result.skipped is not None:
        nothing = dict.fromkeys(f"r{n}" for n in AT)
        return {
            **entry, "queries": 0, "coarse": nothing, "fine": nothing, "pairs_per_query": None, "seconds": None,
            "skipped": result.skipped,
        }  # fmt: skip
    queries = sum(len(part.fine[1]) for part in parts)
    pairs = sum(part.pairs for part in parts)
    return {
        **entry,
        "queries": queries,
        "coarse": _recalls([part.coarse for part in parts]),
        "fine": _recalls([part.fine for part in parts]),
        "pairs_per_query": round(pairs / queries, _DIGITS),
        "seconds": round(sum(part.seconds for part in parts), 2),
        "coarse_seconds": round(sum(part.coarse_seconds for part in parts), 2),
        "second_passes_per_query": round(sum(part.second_passes for part in parts) / queries, _DIGITS),
        "injected_share": round(sum(part.injected for part in parts) / pairs, _DIGITS) if pairs else 0.0,
        "errors": sum(part.errors for part in parts),
        "intervals": _intervals(parts, seed),
        "change": _change(result, same[0], seed),
        "paper": None if paper is None else {"r1": paper},
        **_by_part(benchmark, parts),
        **({} if result.stopped is None else {"stopped": result.stopped}),
        **({} if result.abstention is None else {"abstention": _abstention(result.abstention)}),
    }


def _recalls(hits: Sequence[Mapping[int, Hits]]) -> Json:
    return {f"r{n}": round(mean_of_parts([part[n] for part in hits]), _DIGITS) for n in AT}


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, _DIGITS) for value in values]


def _intervals(parts: Sequence[Part], seed: int) -> Json:
    """Return 95 % intervals of Recall@n, and of the fine stage's gain on the same queries."""
    return {
        "coarse": {f"r{n}": _rounded(interval([part.coarse[n] for part in parts], seed)) for n in AT},
        "fine": {f"r{n}": _rounded(interval([part.fine[n] for part in parts], seed)) for n in AT},
        "gain": {f"r{n}": _rounded(interval([part.fine[n] - part.coarse[n] for part in parts], seed)) for n in AT},
    }


def _change(result: Result, base: Result, seed: int) -> Json | None:
    """Return the change of Recall@1 relative to the first variant on the same queries, with its interval."""
    if result is base or result.stopped is not None:
        return None
    differences = [mine.fine[1] - theirs.fine[1] for mine, theirs in zip(result.parts, base.parts, strict=True)]
    return {
        "r1": round(mean_of_parts(differences), _DIGITS),
        "interval": _rounded(interval(differences, seed)),
    }


def _by_part(benchmark: str, parts: Sequence[Part]) -> Json:
    """Return the parts and the groups of parts if a section has several parts."""
    if len(parts) < 2:
        return {}
    groups = list(dict.fromkeys(part.group for part in parts if part.group is not None))
    return {
        "parts": {part.name: _pair([part]) for part in parts},
        "groups": {
            group: {
                **_pair([part for part in parts if part.group == group]),
                "paper": published.of_group(benchmark, group).get(published.OUR_METHOD),
            }
            for group in groups
        },
    }


def _pair(parts: Sequence[Part]) -> Json:
    """Return Recall@1 of both stages, the mean over the parts."""
    return {
        "queries": sum(len(part.fine[1]) for part in parts),
        "coarse": round(mean_of_parts([part.coarse[1] for part in parts]), _DIGITS),
        "fine": round(mean_of_parts([part.fine[1] for part in parts]), _DIGITS),
    }


def _abstention(measured: Abstention) -> Json:
    return {
        "queries": measured.queries,
        "threshold": None if measured.threshold is None else round(measured.threshold, _DIGITS),
        "right": round(measured.right, _DIGITS),
        "matched": round(measured.matched, _DIGITS),
        "refused": round(measured.refused, _DIGITS),
        "auroc": round(measured.area, _DIGITS),
    }
