"""The pairs of models that one setting chooses, and the names and notices of models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from retllm.profiles import Mode
from retllm.scorer_address import is_remote, is_remote_name, parse_scorer_address


@dataclass(frozen=True)
class Preset:
    """A pair of models: an embedder (its name) and a scorer (transformers name or folder)."""

    embedder: str
    scorer: str
    meaning: str
    k: int = 10
    """Candidates of a search that does not set k; the better the scorer, the more of them it can set right."""
    mode: Mode = "true_false"
    """How the scorer is asked by a search that does not set the mode."""
    needs_gpu: bool = False
    download_gb: float = 0
    """The size of what a model hub sends of both models, in GB; 0 if not known."""
    notice: str | None = None
    """What users of these models should know, and what to do about it."""


def _shipped(name: str) -> str:
    return str(Path(__file__).resolve().parent / "demo" / "models" / name)


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        embedder=f"local-dir:{_shipped('clip')}",
        scorer=_shipped("mllm"),
        meaning="two small models that ship with the project, trained on its procedural scenes; CPU, offline",
        notice="The demo models know drawn scenes only. For photographs set RETLLM_PRESET=small, or start with "
        "retllm up --preset small.",
    ),
    "small": Preset(
        embedder="ViT-B-32/laion2b_s34b_b79k",
        scorer="HuggingFaceTB/SmolVLM-500M-Instruct",
        meaning="real models that run on a laptop",
        # 151 million parameters of 4 bytes, 507 million of 2
        download_gb=1.6,
    ),
    "paper": Preset(
        embedder="ViT-L-14-336/openai",
        scorer="Qwen/Qwen2.5-VL-7B-Instruct",
        meaning="the pair of the RetLLM paper; needs a GPU with 24 GB or more",
        needs_gpu=True,
    ),
    "best": Preset(
        embedder="PE-Core-L-14-336/meta",
        scorer="Qwen/Qwen3-VL-8B-Instruct",
        meaning="the best pair by published figures for queries in English, not measured here; needs a GPU with 24 GB "
        "or more",
        k=20,
        mode="choice",
        needs_gpu=True,
    ),
    "multilingual": Preset(
        embedder="ViT-SO400M-16-SigLIP2-384/webli",
        scorer="Qwen/Qwen3-VL-8B-Instruct",
        meaning="as best, for queries in a hundred languages; needs a GPU with 24 GB or more",
        k=20,
        mode="choice",
        needs_gpu=True,
    ),
}


@lru_cache(maxsize=256)
def public_name(model: str) -> str:
    """Return the name of a model that results store; of a local folder only the last part, so that it can be moved.

    The revision, which is stored too, distinguishes two folders of one name or two commits of one repository. Of a
    model on a server, the address is left out.
    """
    if is_remote(model):
        return parse_scorer_address(model).name
    if is_remote_name(model):
        return model
    prefix = next((form for form in ("local-dir:", "st:local-dir:") if model.startswith(form)), "")
    path = model.removeprefix(prefix)
    return prefix + Path(path).name if prefix or Path(path).is_absolute() else model.partition("@")[0]


def notice_on(models: Collection[str], configured: Mapping[str, str]) -> str | None:
    """Return the notice on ``models``, given by public name; ``configured`` has the full names of some by public name.

    A configured model may be another folder of the same name, to which the notice does not apply.
    """
    for preset in PRESETS.values():
        for model in (preset.embedder, preset.scorer):
            name = public_name(model)
            if preset.notice and name in models and configured.get(name, model) == model:
                return preset.notice
    return None
