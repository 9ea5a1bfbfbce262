"""open_clip model names, and where their safetensors weights are: the one place that knows the name's forms.

ViT-B-32/laion2b_s34b_b79k    an architecture of open_clip and one of its pretrained tags
hf-hub:org/repo               a repository of the hub in open_clip's format
local-dir:/path/to/folder     a folder in that format

The first two may name the commit of the hub behind an @, so that nothing else is ever loaded under the name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retllm.errors import ModelUnavailable
from retllm.fine.sources import ModelSource, folder_revision, from_hub

CONFIG = "open_clip_config.json"
#: open_clip takes these before any pickle file that lies beside them, in this order
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_FORMS = 'Use "<architecture>/<tag>" (ViT-B-32/laion2b_s34b_b79k), "hf-hub:<org>/<repo>" or "local-dir:<folder>".'
# what a tokenizer is made of, beside the weights and their configuration
_BESIDE = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class Name:
    """A model name taken apart; exactly one of ``folder``, ``repo`` is set.

    Attributes:
        full: as given.
        folder: of ``local-dir:``.
        repo: the hub repository that holds the weights.
        revision: the commit, branch or tag of that repository behind the ``@``; None is its main branch.
        weights: names of the weight file, the preferred first.
        architecture, tag: of the form ``<architecture>/<tag>``.
    """

    full: str
    folder: Path | None = None
    repo: str | None = None
    weights: tuple[str, ...] = WEIGHTS
    revision: str | None = None
    architecture: str | None = None
    tag: str | None = None


def parse(name: str) -> Name:
    """Take a name apart.

    Raises:
        ModelUnavailable: it has none of the three forms, or open_clip knows no such architecture or tag, or the
            tag's weights are published as pickle only.
    """
    if name.startswith("local-dir:"):
        return Name(name, folder=Path(name.removeprefix("local-dir:")).expanduser())
    unpinned, at, revision = name.partition("@")
    if at and not revision:
        raise ModelUnavailable(f"{name!r} names no commit behind its @. {_FORMS}", model=name)
    if unpinned.startswith("hf-hub:"):
        return Name(name, repo=unpinned.removeprefix("hf-hub:"), revision=revision or None)
    architecture, slash, tag = unpinned.partition("/")
    if not slash:
        raise ModelUnavailable(f"{name!r} is not a name of an embedding model. {_FORMS}", model=name)
    return _built_in(name, architecture, tag, revision or None)


def _built_in(name: str, architecture: str, tag: str, revision: str | None) -> Name:
    config = tag_config(architecture, tag)
    if config is None:
        raise ModelUnavailable(f"open_clip has no pretrained model {name!r}. {_FORMS}", model=name)
    repo, _, file = str(config.get("hf_hub") or "").rpartition("/")
    if not repo:
        raise ModelUnavailable(
            f"The weights of {name} are published in pickle form only, which is never loaded. Choose a tag that is on "
            "the hub as safetensors.",
            model=name,
        )
    # the tag may name a pickle; its safetensors twin stands beside it
    weights = (str(Path(file).with_suffix(".safetensors")),) if file else WEIGHTS
    return Name(name, repo=repo, weights=weights, revision=revision, architecture=architecture, tag=tag)


def tag_config(architecture: str, tag: str) -> dict[str, Any] | None:
    """What open_clip knows of a tag (preprocessing, activation, place on the hub); None if it knows no such tag."""
    from open_clip.pretrained import get_pretrained_cfg

    found: dict[str, Any] = get_pretrained_cfg(architecture, tag)
    return found or None


def can_load(name: str) -> ModelSource:
    """Whether and from where an embedding model can be loaded here; its weights are not read."""
    try:
        parsed = parse(name)
    except ModelUnavailable as error:
        return ModelSource(name, "nowhere", None, None, error.message)
    if parsed.folder is not None:
        return _from_folder(name, parsed.folder)
    assert parsed.repo is not None
    first = CONFIG if parsed.architecture is None else parsed.weights[0]
    return from_hub(parsed.repo, parsed.revision, config=first, weights=parsed.weights, name=name)


def _from_folder(name: str, folder: Path) -> ModelSource:
    wrong = None
    if not folder.is_dir():
        wrong = f"The folder {folder} does not exist."
    elif not (folder / CONFIG).is_file():
        wrong = f"The folder {folder} holds no {CONFIG}, so it is not a model in open_clip's format."
    elif weights_in(folder) is None:
        wrong = (
            f"The folder {folder} holds no weights called {WEIGHTS[0]}; pickle files are never loaded. Convert "
            "them on a machine you trust."
        )
    if wrong is not None:
        return ModelSource(name, "nowhere", None, None, wrong)
    return ModelSource(name, "folder", folder, folder_revision(folder), f"{name} is a local folder.")


def weights_in(folder: Path, names: tuple[str, ...] = WEIGHTS) -> Path | None:
    """The safetensors weights in a folder, by preference; None if there are none."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def require_no_code(name: str, folder: Path) -> None:
    """Refuse a model whose configuration asks to run code from its own folder: open_clip would do as it says.

    Raises:
        ModelUnavailable: it does, or the configuration can't be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        options = config["model_cfg"].get("text_cfg", {}).get("tokenizer_kwargs") or {}
        trusting = bool(options.get("trust_remote_code"))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelUnavailable(f"The {CONFIG} of {name} can't be read: {error}", model=name) from error
    if trusting:
        raise ModelUnavailable(
            f"{name} needs code from its own folder, which is never run. Choose a model whose tokenizer is part of "
            "transformers.",
            model=name,
        )


def fetch(parsed: Name) -> tuple[Path, str]:
    """The weights of a hub model on this machine, downloaded where they are not cached, and their commit.

    Raises:
        ModelUnavailable: not cached, and the hub can't be reached or has no such safetensors file.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    assert parsed.repo is not None
    cached = can_load(parsed.full)
    where: dict[str, Any] = {"revision": parsed.revision, "local_files_only": cached.here}
    try:
        if parsed.architecture is None and parsed.revision is not None:
            snapshot_download(parsed.repo, allow_patterns=list(_BESIDE), **where)
        elif parsed.architecture is None:
            hf_hub_download(parsed.repo, CONFIG, **where)
        for weights in parsed.weights:
            try:
                path = Path(hf_hub_download(parsed.repo, weights, **where))
            except EntryNotFoundError:
                continue
            return path, folder_revision(path.parent)
    except (OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        raise ModelUnavailable(
            f"{parsed.full} is not on this machine and could not be downloaded. If the model hub can't be reached from "
            f"here, copy the model into a folder and use local-dir:<folder>. The hub's client said: {told}",
            model=parsed.full,
        ) from error
    raise ModelUnavailable(
        f"{parsed.full} has no safetensors weights on the hub; pickle files are never loaded.", model=parsed.full
    )
