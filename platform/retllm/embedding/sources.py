"""Parse open_clip model names and find their safetensors weights. No other module depends on the forms of a name, but
those of :mod:`retllm.embedding.sentence_sources`.

ViT-B-32/laion2b_s34b_b79k    an architecture of open_clip and one of its pretrained tags
hf-hub:org/repo               a repository of the hub in open_clip's format
local-dir:/path/to/folder     a folder in that format

The first two may end with @ and a commit of the hub, so that the name always loads the same files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retllm.embedding import sentence_sources
from retllm.errors import ModelUnavailable
from retllm.fine.sources import ModelSource, folder_revision, from_hub, no_weights, not_downloaded, reach_hub

CONFIG = "open_clip_config.json"
#: open_clip prefers these, in this order, to pickle files in the same folder
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_FORMS = (
    'Use "<architecture>/<tag>" (ViT-B-32/laion2b_s34b_b79k), "hf-hub:<org>/<repo>", "local-dir:<folder>", or '
    '"st:<org>/<repo>" for a model of sentence-transformers.'
)
# the files of a tokenizer and of the configuration
_BESIDE = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class Name:
    """A parsed model name; exactly one of ``folder``, ``repo`` is set.

    Attributes:
        full: as given.
        folder: of ``local-dir:``.
        repo: the hub repository with the weights.
        revision: the commit, branch or tag of that repository after the ``@``; None is its main branch.
        weights: possible names of the weight file, the preferred one first.
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
    """Parse a name.

    Raises:
        ModelUnavailable: it has none of the three forms, open_clip has no such architecture or tag, or the tag's
            weights are published only as pickle.
    """
    if name.startswith("local-dir:"):
        return Name(name, folder=Path(name.removeprefix("local-dir:")).expanduser())
    unpinned, at, revision = name.partition("@")
    if at and not revision:
        raise ModelUnavailable(f"{name!r} has no commit after the @. {_FORMS}", model=name)
    if unpinned.startswith("hf-hub:"):
        return Name(name, repo=unpinned.removeprefix("hf-hub:"), revision=revision or None)
    architecture, slash, tag = unpinned.partition("/")
    if not slash:
        raise ModelUnavailable(f"{name!r} is not the name of an embedding model. {_FORMS}", model=name)
    return _built_in(name, architecture, tag, revision or None)


def _built_in(name: str, architecture: str, tag: str, revision: str | None) -> Name:
    config = tag_config(architecture, tag)
    if config is None:
        raise ModelUnavailable(f"open_clip has no pretrained model {name!r}. {_FORMS}", model=name)
    repo, _, file = str(config.get("hf_hub") or "").rpartition("/")
    if not repo:
        raise ModelUnavailable(
            f"The weights of {name} are published only as pickle files, which are never loaded. Choose a tag with "
            "safetensors weights on the hub.",
            model=name,
        )
    # if the tag names a pickle file, the safetensors file has the same name except for the suffix
    weights = (str(Path(file).with_suffix(".safetensors")),) if file else WEIGHTS
    return Name(name, repo=repo, weights=weights, revision=revision, architecture=architecture, tag=tag)


def tag_config(architecture: str, tag: str) -> dict[str, Any] | None:
    """Return open_clip's settings of a tag (preprocessing, activation, hub repository); None for an unknown tag."""
    from open_clip.pretrained import get_pretrained_cfg

    found: dict[str, Any] = get_pretrained_cfg(architecture, tag)
    return found or None


def can_load(name: str) -> ModelSource:
    """Check whether and from where an embedding model can be loaded here, without reading its weights."""
    if sentence_sources.is_sentence_name(name):
        return sentence_sources.can_load(name)
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
        wrong = f"The folder {folder} has no {CONFIG}, so it is not a model in open_clip's format."
    elif weights_in(folder) is None:
        wrong = (
            f"The folder {folder} has no weights {WEIGHTS[0]}; pickle files are never loaded. Convert them to "
            "safetensors on a machine you trust."
        )
    if wrong is not None:
        return ModelSource(name, "nowhere", None, None, wrong)
    return ModelSource(name, "folder", folder, folder_revision(folder), f"{name} is a local folder.")


def weights_in(folder: Path, names: tuple[str, ...] = WEIGHTS) -> Path | None:
    """Return the first of the safetensors weights ``names`` that is in a folder; None if there are none."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def require_no_code(name: str, folder: Path) -> None:
    """Reject a model whose configuration requests to run code from its own folder; open_clip would run it.

    Raises:
        ModelUnavailable: the configuration requests it, or can't be read.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        options = config["model_cfg"].get("text_cfg", {}).get("tokenizer_kwargs") or {}
        trust_remote_code = bool(options.get("trust_remote_code"))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelUnavailable(f"The {CONFIG} of {name} can't be read: {error}", model=name) from error
    if trust_remote_code:
        raise ModelUnavailable(
            f"{name} needs code from its own folder, which is never run. Choose a model whose tokenizer is part of "
            "transformers.",
            model=name,
        )


def fetch(parsed: Name) -> tuple[Path, str]:
    """Return the path of a hub model's weights, downloaded if they are not cached, and their commit.

    Raises:
        ModelUnavailable: they are not cached, and the hub can't be reached or has no such safetensors file.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    assert parsed.repo is not None
    cached = can_load(parsed.full)
    where: dict[str, Any] = {"revision": parsed.revision, "local_files_only": cached.here}
    try:
        if not cached.here:
            reach_hub(parsed.full)
        if parsed.architecture is None and parsed.revision is not None:
            snapshot_download(parsed.repo, allow_patterns=list(_BESIDE), **where)
        elif parsed.architecture is None:
            hf_hub_download(parsed.repo, CONFIG, **where)
        for weights in parsed.weights:
            try:
                path = Path(hf_hub_download(parsed.repo, weights, **where))
            except LocalEntryNotFoundError:
                # although it is an EntryNotFoundError: the hub was not reached
                raise
            except EntryNotFoundError:
                continue
            return path, folder_revision(path.parent)
    except (OSError, ValueError, RuntimeError) as error:
        raise not_downloaded(parsed.full, "use local-dir:<folder>", error) from error
    raise no_weights(parsed.full)
