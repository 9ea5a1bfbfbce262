"""A model that can't be used is refused with one sentence that says what to do."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retllm.errors import InvalidInput, ModelUnavailable, ModelUnsuited
from retllm.fine import Content, Injection, can_load, load_scorer
from retllm.fine.sources import folder_revision


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("qwen2_5_vl"), folder)
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_processor(folder: Path) -> None:
    for path in folder.glob("*processor*"):
        path.unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_model_type(folder: Path) -> None:
    edit(folder / "config.json", lambda data: data.update(model_type="no_such_model"))


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree, no_config, no_weights, pickle_only, truncated_weights, missing_shard, no_processor, no_tokenizer,
        broken_config, unknown_model_type,
    ],
)  # fmt: skip
def test_a_damaged_model_folder_is_refused_with_a_one_line_message(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy)
    with pytest.raises(ModelUnavailable) as caught:
        load_scorer(str(copy), device="cpu")
    assert str(copy) in caught.value.message
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize("damage", [shutil.rmtree, no_config, no_weights, pickle_only, missing_shard])
def test_missing_files_are_detected_without_loading(copy: Path, damage: Callable[[Path], None]) -> None:
    assert can_load(str(copy)).where == "folder"
    damage(copy)
    assert can_load(str(copy)).where == "nowhere"


def test_a_pickle_file_beside_safetensors_weights_is_ignored(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"would be run when opened")
    assert load_scorer(str(copy), device="cpu").info.layers == 6


def add_code(folder: Path, canary: Path) -> None:
    """Add code to the folder for every part of a model, and set every option that requests to run it."""
    source = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Evil: pass\n"
    (folder / "evil.py").write_text(source)
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor")
    mapped = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for path in folder.glob("*config.json"):
        edit(path, lambda data: data.update(auto_map=mapped, trust_remote_code=True))
    edit(folder / "tokenizer_config.json", lambda data: data.update(tokenizer_class="Evil"))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "evil"])
def test_code_in_a_model_folder_never_runs(copy: Path, kind: str, tmp_path: Path) -> None:
    """Whether or not the model loads without that code; the other files are pickles that would run code too."""
    canary = tmp_path / "it ran"
    add_code(copy, canary)
    edit(copy / "config.json", lambda data: data.update(model_type=kind))
    for name in ("pytorch_model.bin", "training_args.bin", "adapter_model.bin", "processor.pkl"):
        (copy / name).write_bytes(pickle.dumps(Trap(canary)))
    with contextlib.suppress(ModelUnavailable):
        load_scorer(str(copy), device="cpu")
    assert not canary.exists()


def test_pickled_weights_are_refused_without_unpickling_them(copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "it ran"
    trap = pickle.dumps(Trap(canary))
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(ModelUnavailable, match="pickle"):
        load_scorer(str(copy), device="cpu")
    (copy / "model.safetensors").write_bytes(trap)
    with pytest.raises(ModelUnavailable, match="can't be loaded"):
        load_scorer(str(copy), device="cpu")
    assert not canary.exists()
    pickle.loads(trap)
    assert canary.exists(), "the trap works"


class Trap:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def test_a_chat_template_cannot_leave_its_sandbox(copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "it ran"
    (copy / "chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.os.mknod('CANARY') }}".replace("CANARY", str(canary))
    )
    with pytest.raises(ModelUnsuited, match="chat template"):
        load_scorer(str(copy), device="cpu")
    assert not canary.exists()


def text_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def remote_code(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('this code must never run')")
    names = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
    edit(folder / "config.json", lambda data: data.update(model_type="evil", auto_map=names))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(text_model, "image-text-to-text"), (no_template, "chat template"), (remote_code, "never run")],
)
def test_an_unsuitable_model_is_refused_with_the_reason(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(ModelUnsuited, match=message):
        load_scorer(str(copy), device="cpu")


def test_a_label_of_several_tokens_is_refused(copy: Path) -> None:
    """The tokenizer's merges are removed, so that every letter is a token."""

    def letters_only(data: dict[str, Any]) -> None:
        data["model"]["merges"] = []

    edit(copy / "tokenizer.json", letters_only)
    with pytest.raises(ModelUnsuited, match='"True" is not a single token'):
        load_scorer(str(copy), device="cpu")


def test_injection_into_layers_without_a_dense_network_is_refused(copy: Path) -> None:
    scorer = load_scorer(str(copy), device="cpu")
    for layer in scorer._loaded.decoder.layers:
        layer.mlp.up_proj = None
    with pytest.raises(ModelUnsuited, match="dense"):
        scorer.score(Content(text="a"), [Content(text="b")], Injection())
    assert scorer._feed_forwards == {}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "gpu9"}, ModelUnavailable),
        ({"dtype": "int8"}, ModelUnavailable),
        ({"dtype": "nn"}, ModelUnavailable),
        ({"token_budget": 0}, InvalidInput),
    ],
)
def test_invalid_load_options_are_refused(copy: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        load_scorer(str(copy), **options)


def test_a_hub_model_that_is_not_cached_would_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    source = can_load("some-organisation/some-model-that-is-not-cached")
    assert source.where == "download"
    assert not source.here


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a b", "a/b/c", "", "a..b/c"])
def test_a_name_that_is_neither_a_folder_nor_a_hub_name_is_refused(name: str) -> None:
    source = can_load(name)
    assert source.where == "nowhere"
    with pytest.raises(ModelUnavailable):
        load_scorer(name)


def add_to_hub_cache(home: Path, folder: Path, commit: str) -> None:
    """Copy ``folder`` into the layout of the hub's cache."""
    repo = home / "hub" / "models--some--model"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)


def test_without_the_hub_a_cached_model_loads_and_any_other_is_reported(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """In a separate process, since huggingface_hub reads its settings at import."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    add_to_hub_cache(tmp_path, model_folder("qwen2_5_vl"), commit)
    program = (
        # the client of the hub pauses for 23 seconds in all before its last attempt
        "import time\ntime.sleep = lambda seconds: None\n"
        "from retllm.errors import ModelUnavailable\n"
        "from retllm.fine import can_load, load_scorer\n"
        "print(can_load('some/model').where, load_scorer('some/model', device='cpu').info.revision)\n"
        "try:\n    load_scorer('some/other', device='cpu')\n"
        "except ModelUnavailable as error:\n    print(error.message)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert f"cache {commit}" in done.stdout, done.stderr
    assert "some/other is not on this machine and could not be downloaded." in done.stdout, done.stderr


def test_the_revision_depends_on_weights_and_config_but_not_on_the_path(
    copy: Path, model_folder: Callable[[str], Path]
) -> None:
    revision = folder_revision(copy)
    assert revision == folder_revision(model_folder("qwen2_5_vl")), "it does not depend on the path"
    (copy / "README.md").write_text("notes do not count")
    assert folder_revision(copy) == revision
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = folder_revision(copy)
    assert changed != revision
    edit(copy / "config.json", lambda data: data.update(note="x"))
    assert folder_revision(copy) not in (revision, changed)


def test_the_revision_covers_samples_of_large_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retllm.fine.sources._WHOLE_BYTES", 1000)
    monkeypatch.setattr("retllm.fine.sources._SAMPLE_BYTES", 100)
    monkeypatch.setattr("retllm.fine.sources._SAMPLES", 5)
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(5000))
    plain = folder_revision(tmp_path)
    for at in (0, 4999, 2500):
        data = bytearray(5000)
        data[at] = 1
        path.write_bytes(data)
        assert folder_revision(tmp_path) != plain


def test_importing_fine_and_embedding_does_not_import_torch() -> None:
    """A web process that only checks settings must not load torch."""
    program = "import sys, retllm.fine, retllm.embedding; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False False", done.stderr
