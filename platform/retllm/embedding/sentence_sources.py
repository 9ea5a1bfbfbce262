"""Names and files of the embedders of sentence-transformers, without loading the library.

st:org/repo                   a repository of the hub in sentence-transformers' format
st:local-dir:/path            a folder in that format
st:org/repo#512               of its vectors only the first 512 numbers, for models that were trained for that
st:org/repo#512@commit        a commit of the hub, so that the name always loads the same files

Only safetensors weights are loaded, and no code from the model's files is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from retllm.errors import ModelUnavailable, ModelUnsuited
from retllm.fine.sources import ModelSource, folder_revision, missing_weights, no_weights, not_downloaded, reach_hub

PREFIX = "st:"
MODULES = "modules.json"
_FOLDER = "local-dir:"
_SETTINGS = "config_sentence_transformers.json"
# sentence_bert_config.json and, of old models, sentence_roberta_config.json and so on
_BACKBONE = "sentence_*_config.json"
_INDEX = "model.safetensors.index.json"
_INSTALL = "pip install 'retllm-platform[sentence]'"
_FORMS = 'Use "st:<org>/<repo>" or "st:local-dir:<folder>", each also with "#<dimensions>".'
_NAME = re.compile(r"st:([^#@]+)(?:#([1-9]\d{0,4}))?(?:@([^#@]+))?")
_LOCAL = re.compile(r"st:local-dir:(.+?)(?:#([1-9]\d{0,4}))?")
# modules of sentence-transformers that are loaded, and whether they have weights
_MODULES = {
    "Transformer": True,
    "CLIPModel": True,
    "StaticEmbedding": True,
    "Dense": True,
    "LayerNorm": True,
    "WeightedLayerPooling": True,
    "Pooling": False,
    "Normalize": False,
    "Dropout": False,
}
_BACKBONES = ("Transformer", "CLIPModel")
# everything but weights: a few megabytes
_BESIDE = ("*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class SentenceName:
    """A parsed name; exactly one of ``folder``, ``repo`` is set.

    Attributes:
        full: as given.
        folder: of ``st:local-dir:``.
        repo: the hub repository.
        revision: the commit, branch or tag of the repository; None is its main branch.
        dimension: length of the vectors; None is that of the model.
    """

    full: str
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None
    dimension: int | None = None


def is_sentence_name(name: str) -> bool:
    """Return whether this is the name of an embedder of sentence-transformers."""
    return name.startswith(PREFIX)


def parse(name: str) -> SentenceName:
    """Parse a name.

    Raises:
        ModelUnavailable: it has neither form.
    """
    if name.startswith(PREFIX + _FOLDER):
        found = _LOCAL.fullmatch(name)
        if found is not None:
            return SentenceName(name, folder=Path(found[1]).expanduser(), dimension=_number(found[2]))
    elif found := _NAME.fullmatch(name):
        # sentence-transformers' own models may be named without their organization
        repo = found[1] if "/" in found[1] else f"sentence-transformers/{found[1]}"
        return SentenceName(name, repo=repo, revision=found[3], dimension=_number(found[2]))
    raise ModelUnavailable(f"{name!r} is not the name of a model of sentence-transformers. {_FORMS}", model=name)


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def can_load(name: str) -> ModelSource:
    """Check whether and from where a model can be loaded here, without reading its weights."""
    try:
        _require_library(name)
        parsed = parse(name)
        return _in_folder(parsed, parsed.folder) if parsed.folder is not None else _on_hub(parsed)
    except ModelUnavailable as error:
        return ModelSource(name, "nowhere", None, None, error.message)


def _require_library(name: str) -> None:
    if find_spec("sentence_transformers") is None:
        raise ModelUnavailable(
            f"{name} needs the library sentence-transformers, which is not installed. Install it on every host with an "
            f"`embed` worker: {_INSTALL}.",
            model=name,
        )


def _in_folder(parsed: SentenceName, folder: Path) -> ModelSource:
    if not folder.is_dir():
        raise ModelUnavailable(f"The folder {folder} does not exist.", model=parsed.full)
    require_no_code(parsed.full, folder)
    missing = _missing(folder)
    if missing is not None:
        raise ModelUnavailable(missing, model=parsed.full)
    message = f"{parsed.full} is a local folder.{_limits(parsed.full, folder)}"
    return ModelSource(parsed.full, "folder", folder, revision_of(folder), message)


def _on_hub(parsed: SentenceName) -> ModelSource:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    assert parsed.repo is not None
    try:
        found = try_to_load_from_cache(parsed.repo, MODULES, revision=parsed.revision or "main")
    except HFValidationError as error:
        raise ModelUnavailable(f"{parsed.full!r} is not a valid name on the model hub. {_FORMS}") from error
    if isinstance(found, str):
        folder = Path(found).parent
        require_no_code(parsed.full, folder)
        if _missing(folder) is None:
            where = f"{parsed.full} is in this machine's hub cache.{_limits(parsed.full, folder)}"
            return ModelSource(parsed.full, "cache", folder, revision_of(folder), where)
    return ModelSource(
        parsed.full, "download", None, None,
        f"{parsed.full} is not on this machine and will be downloaded from the model hub; if the hub can't be reached, "
        "copy the model into a folder and use st:local-dir:<folder>.",
    )  # fmt: skip


def revision_of(folder: Path) -> str:
    """Return the commit of a folder in the hub's cache, else a hash of its files and those of its modules.

    Like :func:`retllm.fine.sources.folder_revision`, which knows no folders inside a folder.
    """
    own = folder_revision(folder)
    if folder.resolve().name == own:
        return own
    inside = sorted({path for path, _ in modules_of(folder.name, folder) if path and (folder / path).is_dir()})
    parts = [own, *(f"{path}\0{folder_revision(folder / path)}" for path in inside)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def modules_of(name: str, folder: Path) -> list[tuple[str, str]]:
    """Return the folder, "" for the model's own, and the class of each module of a model.

    Raises:
        ModelUnavailable: the list can't be read.
        ModelUnsuited: a module is not one of sentence-transformers, or not one that is supported.
    """
    modules = []
    try:
        for entry in json.loads((folder / MODULES).read_text("utf-8")):
            path, kind = str(entry["path"]), str(entry["type"])
            if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
                raise ValueError(f"{path!r} is outside of the folder")
            modules.append((path, kind))
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{name} has no {MODULES}, so it is not a model in sentence-transformers' format.", model=name
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"The {MODULES} of {name} can't be read: {error}", model=name) from error
    if not modules:
        raise ModelUnavailable(f"The {MODULES} of {name} has no modules.", model=name)
    return [(path, _known(name, kind)) for path, kind in modules]


def _known(name: str, kind: str) -> str:
    if not kind.startswith("sentence_transformers."):
        raise needs_code(name)
    module = kind.rpartition(".")[2]
    if module not in _MODULES:
        raise ModelUnsuited(
            f"{name} has the module {module}, which is not supported: {', '.join(_MODULES)}.", model=name
        )
    return module


def needs_code(name: str) -> ModelUnsuited:
    """Return the error for a model that can't be loaded without running code of its authors."""
    return ModelUnsuited(
        f"{name} needs code from its own files, which is never run. Choose a model whose classes are part of "
        "sentence-transformers and transformers.",
        model=name,
    )


def require_no_code(name: str, folder: Path) -> None:
    """Reject a model that requests code or files of others, from its configuration alone.

    Raises:
        ModelUnavailable: its configuration can't be read.
        ModelUnsuited: it needs code, is an adapter of another model, or is no embedder with one vector for an input.
    """
    for path, module in modules_of(name, folder):
        if module in _BACKBONES:
            _check_backbone(name, folder / path)
    kind = _json(name, folder / _SETTINGS).get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ModelUnsuited(
            f"{name} is a {kind} and not an embedder (SentenceTransformer), which gives one vector for an input.",
            model=name,
        )


def _check_backbone(name: str, folder: Path) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = _json(name, folder / "config.json")
    settings: dict[str, Any] = {}
    for path in sorted(folder.glob(_BACKBONE)):
        settings |= _json(name, path)
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise needs_code(name)
    options = [config, *(value for value in settings.values() if isinstance(value, dict))]
    # "org/repo" is a kernel of the hub: compiled code
    if any("/" in str(one.get("attn_implementation")) or one.get("allow_all_kernels") for one in options):
        raise needs_code(name)
    if (folder / "adapter_config.json").exists():
        raise ModelUnsuited(
            f"{name} is an adapter of another model. Merge both (merge_and_unload and save_pretrained with peft) and "
            "name the folder of the result.",
            model=name,
        )
    if settings.get("tokenizer_name_or_path") or settings.get("processor_name"):
        raise ModelUnsuited(
            f"{name} takes its tokenizer from another model. Save model and tokenizer together.", model=name
        )


def _json(name: str, path: Path) -> dict[str, Any]:
    """Return the object in a file, an empty one if there is no file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"The {path.name} of {name} can't be read: {error}", model=name) from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"The {path.name} of {name} is not a JSON object.", model=name)
    return found


def _limits(name: str, folder: Path) -> str:
    """Return what it means for a collection that a model takes texts only or pictures only; "" if it takes both.

    As sentence-transformers tells it: a model without ``modality_config`` was saved when it knew texts only.
    """
    path, module = modules_of(name, folder)[0]
    kinds = _json(name, folder / path / "sentence_bert_config.json").get("modality_config") or {"text": {}}
    if module == "CLIPModel" or {"text", "image"} <= kinds.keys():
        return ""
    if "text" in kinds:
        return (
            " It takes texts only: pictures get no vector unless they have a caption, and a picture can't be a query."
        )
    return " It takes pictures only: texts get no vector, and a text can't be a query."


def _missing(folder: Path) -> str | None:
    """Return what is wrong with the weights in a model's folder; None if they are complete."""
    for path in _with_weights(folder):
        missing = missing_weights(folder / path)
        if missing is not None:
            return f"The folder {folder / path} {missing}"
    return None


def _with_weights(folder: Path) -> Iterator[str]:
    return (path for path, module in modules_of(folder.name, folder) if _MODULES[module])


def fetch(parsed: SentenceName) -> Path:
    """Return the folder of a hub model's files, downloaded if they are not cached.

    Its configuration comes first, so that no weights are downloaded for a model that is refused.

    Raises:
        ModelUnavailable: they are not cached, and the hub can't be reached or has no safetensors weights.
        ModelUnsuited: see :func:`require_no_code`.
    """
    from huggingface_hub import snapshot_download

    assert parsed.repo is not None
    cached = can_load(parsed.full)
    if cached.folder is not None:
        return cached.folder
    try:
        reach_hub(parsed.full)
        folder = Path(snapshot_download(parsed.repo, revision=parsed.revision, allow_patterns=list(_BESIDE)))
        require_no_code(parsed.full, folder)
        # the same commit, although the branch may have moved
        snapshot_download(parsed.repo, revision=folder.name, allow_patterns=[*_BESIDE, *_weights(folder)])
    except ModelUnavailable:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise not_downloaded(parsed.full, "use st:local-dir:<folder>", error) from error
    if _missing(folder) is not None:
        raise no_weights(parsed.full)
    return folder


def _weights(folder: Path) -> Iterator[str]:
    """Yield the names of the weight files of a model, relative to its folder."""
    for path in _with_weights(folder):
        inside = PurePosixPath(path)
        shards = _json(folder.name, folder / path / _INDEX).get("weight_map", {})
        yield from (str(inside / shard) for shard in sorted({"model.safetensors", *shards.values()}))
