"""Find the source of a model without loading it: a local folder, the hub's cache, or a download."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from retllm.errors import ModelUnavailable
from retllm.profiles import Profile, choose_profile, names_of

log = structlog.get_logger(__name__)

Where = Literal["folder", "cache", "download", "nowhere"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_DEFAULT_REVISION = "main"

#: files up to this size are hashed completely, larger ones by size and evenly spaced samples
_WHOLE_BYTES = 64 * 2**20
_SAMPLES = 256
_SAMPLE_BYTES = 64 * 2**10

#: time limit of the question whether the hub answers
_HUB_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The source that a model would be loaded from.

    Attributes:
        model: its name as given.
        where: ``folder``: a local folder; ``cache``: the hub's cache on this machine, complete; ``download``: a
            hub name that is not cached and must be downloaded; ``nowhere``: it can't be loaded.
        folder: the folder of its files, for ``folder`` and ``cache``.
        revision: the commit, or for a folder the hash of its contents; None if not downloaded.
        message: one sentence for people: where the model is, or what is wrong and what to do.
    """

    model: str
    where: Where
    folder: Path | None
    revision: str | None
    message: str

    @property
    def here(self) -> bool:
        """Whether the model can be loaded without a network."""
        return self.where in ("folder", "cache")


def can_load(model: str, revision: str | None = None) -> ModelSource:
    """Check whether and from where an image-text-to-text model can be loaded here, without reading its weights.

    Args:
        model: a local folder, or a hub name such as ``Qwen/Qwen2.5-VL-7B-Instruct``.
        revision: a branch, tag or commit on the hub; ignored for a folder.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _from_folder(model, path)
    if path.is_absolute() or model.startswith((".", "~")) or not _HUB_NAME.fullmatch(model):
        return ModelSource(
            model, "nowhere", None, None, f"The folder {model} does not exist. Give the folder of a model, or "
            "a hub name such as Qwen/Qwen2.5-VL-7B-Instruct."
        )  # fmt: skip
    return from_hub(model, revision, config="config.json", weights=("model.safetensors",))


def decoder_layers(model: str, revision: str | None = None) -> int | None:
    """Return the number of decoder layers of a model by its configuration; None if that is not on this machine.

    Fast: neither weights nor libraries of models are read.
    """
    try:
        config = json.loads(_text_of(model, revision, "config.json"))
        layers = config.get("text_config", config).get("num_hidden_layers")
    except (ValueError, AttributeError):
        return None
    return layers if isinstance(layers, int) else None


def profile_of(model: str, revision: str | None, chosen: str | None) -> Profile | None:
    """Return the profile that a model has when it is loaded; None if its configuration is not on this machine.

    Fast, as :func:`decoder_layers`.

    Args:
        model, revision: as for :func:`can_load`.
        chosen: the configured profile; None for that of the model's family.

    Raises:
        BadProfile: the configured profile can't be used.
    """
    try:
        model_type = json.loads(_text_of(model, revision, "config.json")).get("model_type")
    except (ValueError, AttributeError):
        return None
    template = "".join(_text_of(model, revision, name) for name in _TEMPLATES)
    return choose_profile(chosen, model_type, names_of(model), template)


#: the files that may have a chat template
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def _text_of(model: str, revision: str | None, name: str) -> str:
    """Return a file of a model, from its folder or the hub's cache; empty if it is not on this machine."""
    path = Path(model).expanduser() / name
    try:
        if not path.is_file() and _HUB_NAME.fullmatch(model):
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(model, name, revision=revision or _DEFAULT_REVISION)
            path = Path(found) if isinstance(found, str) else path
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _from_folder(model: str, path: Path) -> ModelSource:
    if not (path / "config.json").is_file():
        return _nowhere(model, f"The folder {model} has no config.json, so it is not a model saved by transformers.")
    missing = missing_weights(path)
    if missing is not None:
        return _nowhere(model, f"The folder {model} {missing}")
    return ModelSource(model, "folder", path, folder_revision(path), f"{model} is a local folder.")


def _nowhere(model: str, message: str) -> ModelSource:
    return ModelSource(model, "nowhere", None, None, message)


def missing_weights(folder: Path) -> str | None:
    """Return what is wrong with the safetensors weights in ``folder``, as the end of a sentence; None if complete."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        absent = sorted(shard for shard in shards if not (folder / shard).exists())
        if absent:
            return f"lacks {len(absent)} of {len(shards)} weight files, such as {absent[0]}. Copy all files."
        return None
    if (folder / "model.safetensors").exists():
        return None
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return (
            "has weights only in pickle files, which are never loaded since they can run code. Convert them to "
            "safetensors (load and save_pretrained with transformers on a machine you trust)."
        )
    return "has no model.safetensors. Copy the weights into it."


def from_hub(
    repo: str, revision: str | None, *, config: str, weights: Sequence[str], name: str | None = None
) -> ModelSource:
    """Check whether a hub repository's config file and a weight file (or its index and all shards) are cached.

    ``name`` is the name of the model in messages, if it is not the repository's name.
    """
    model = name or repo
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, config, revision=revision or _DEFAULT_REVISION)
    except HFValidationError:
        return _nowhere(model, f"{model!r} is neither a local folder nor a valid name on the model hub.")
    if isinstance(found, str):
        folder = Path(found).parent
        complete = any((folder / name).exists() for name in weights) or (
            (folder / "model.safetensors.index.json").is_file() and missing_weights(folder) is None
        )
        if complete:
            return ModelSource(model, "cache", folder, _snapshot(folder), f"{model} is in this machine's hub cache.")
    return ModelSource(
        model, "download", None, None,
        f"{model} is not on this machine and will be downloaded from the model hub; if the hub can't be reached, copy "
        "the model into a folder and give that folder.",
    )  # fmt: skip


def is_commit(revision: str | None) -> bool:
    """Return whether this is a commit hash, which unlike a branch never changes."""
    return bool(revision and _COMMIT.fullmatch(revision))


def _snapshot(folder: Path) -> str | None:
    """Return the commit of a snapshot folder in the hub's cache; None for any other folder."""
    return folder.name if _COMMIT.fullmatch(folder.name) and folder.parent.name == "snapshots" else None


def folder_revision(folder: Path) -> str:
    """Return a stable id of the contents of a model folder: its commit in the hub's cache, else a hash of its files.

    Only files that can change a model's answers are hashed (weights, configurations, tokenizer, chat template). Equal
    files give the same id on every machine and path. Large weight files are hashed by size and 256 samples of 64 KiB:
    fast, and any training changes all samples.
    """
    resolved = folder.resolve()
    commit = _snapshot(resolved)
    if commit is not None:
        return commit
    digest = hashlib.sha256()
    for path in sorted(resolved.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.suffix not in _COUNTED:
            continue
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _add_file(digest, path)
    return digest.hexdigest()


_COUNTED = {".safetensors", ".json", ".jinja", ".txt", ".model"}


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while block := file.read(2**20):
                digest.update(block)
            return
        for sample in range(_SAMPLES):
            file.seek(sample * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))


def hub_problem() -> str | None:
    """Return why the model hub can't be used, or None if it answers; takes seconds at most."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=_HUB_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"the hub at {constants.ENDPOINT} can't be reached ({reason})"
    return None


def reach_hub(model: str) -> None:
    """Check that the hub answers before a model is downloaded: its client repeats requests for minutes.

    Raises:
        ConnectionError: it does not.
    """
    problem = hub_problem()
    if problem is not None:
        raise ConnectionError(problem)
    log.warning("model.downloads", model=model, reason="it is not on this machine")


def not_downloaded(name: str, otherwise: str, error: Exception) -> ModelUnavailable:
    """Return the error for a model that can't be downloaded; ``otherwise`` says how to use a copy of it."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ModelUnavailable(
        f"{name} is not on this machine and could not be downloaded. If the model hub can't be reached from here, copy "
        f"the model into a folder and {otherwise}. Error of the hub client: {reason}",
        model=name,
    )


def no_weights(name: str) -> ModelUnavailable:
    """Return the error for a model whose weights are not safetensors."""
    return ModelUnavailable(f"{name} has no safetensors weights on the hub; pickle files are never loaded.", model=name)
