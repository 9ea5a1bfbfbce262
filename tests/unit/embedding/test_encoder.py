"""Embeddings of pictures and texts are unit vectors that do not depend on the batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from retllm.embedding import Embedder, can_load, load_embedder
from retllm.embedding.sources import Name, parse
from retllm.errors import InvalidInput, ModelUnavailable
from retllm.settings import public_name


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


PICTURES = [picture(seed, (20 + 7 * seed, 50 - 3 * seed)) for seed in range(7)]
TEXTS = ["a red square", "a blue circle left of a dog", "x", "word " * 200]


def test_every_row_is_a_unit_vector_of_the_stated_dimension(embedder: Embedder) -> None:
    for rows, count in ((embedder.embed_images(PICTURES), 7), (embedder.embed_texts(TEXTS), 4)):
        assert rows.shape == (count, embedder.info.dimension)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_an_empty_batch_has_no_rows(embedder: Embedder) -> None:
    assert embedder.embed_images([]).shape == (0, 16)
    assert embedder.embed_texts([]).shape == (0, 16)


@pytest.mark.parametrize("order", [[3], [6, 3, 0], [3] * 5, list(range(7)) * 10])
def test_a_picture_has_the_same_embedding_in_any_batch(embedder: Embedder, order: Sequence[int]) -> None:
    alone = embedder.embed_images([PICTURES[3]])[0]
    together = embedder.embed_images([PICTURES[index] for index in order])
    for row, index in zip(together, order, strict=True):
        if index == 3:
            np.testing.assert_allclose(row, alone, atol=1e-6)


def test_a_text_has_the_same_embedding_in_any_batch(embedder: Embedder) -> None:
    together = embedder.embed_texts([*TEXTS] * 20)
    for index, text in enumerate(TEXTS):
        np.testing.assert_allclose(together[index + 40], embedder.embed_texts([text])[0], atol=1e-6)


def test_embeddings_are_those_of_open_clip(embedder: Embedder, clip_folder: Path) -> None:
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([transform(image) for image in PICTURES]), normalize=True)
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    np.testing.assert_allclose(embedder.embed_images(PICTURES), images.numpy(), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_texts(TEXTS), texts.numpy(), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_other_modes_can_be_embedded(embedder: Embedder, mode: str) -> None:
    assert np.isfinite(embedder.embed_images([picture(1, mode=mode)])).all()


def test_the_error_for_a_broken_picture_has_its_index(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    picture(1, (200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as broken, pytest.raises(InvalidInput) as caught:
        embedder.embed_images([PICTURES[0], broken])
    assert caught.value.detail["index"] == 1


def test_the_revision_depends_on_the_weights_and_not_on_the_folder(
    clip_folder: Path, embedder: Embedder, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(clip_folder, copy)
    assert load_embedder(f"local-dir:{copy}", device="cpu").info.revision == embedder.info.revision
    weights = copy / "open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load_embedder(f"local-dir:{copy}", device="cpu").info.revision != embedder.info.revision


def test_the_preprocessing_hash_depends_on_the_preprocessing(
    clip_folder: Path, embedder: Embedder, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    path = copy / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["resize_mode"] = "shortest"
    path.write_text(json.dumps(config))
    other = load_embedder(f"local-dir:{copy}", device="cpu").info
    assert other.preprocessing_hash != embedder.info.preprocessing_hash
    assert load_embedder(f"local-dir:{clip_folder}").info.preprocessing_hash == embedder.info.preprocessing_hash


def test_bfloat16_embeddings_are_close_to_float32_embeddings(clip_folder: Path, embedder: Embedder) -> None:
    low = load_embedder(f"local-dir:{clip_folder}", device="cpu", dtype="bfloat16")
    closeness = (low.embed_images(PICTURES) * embedder.embed_images(PICTURES)).sum(axis=1)
    assert closeness.min() > 0.995
    closeness = (low.embed_texts(TEXTS) * embedder.embed_texts(TEXTS)).sum(axis=1)
    assert closeness.min() > 0.995


def _without_config(folder: Path) -> None:
    (folder / "open_clip_config.json").unlink()


def _pickle_only(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")


def _cut_weights(folder: Path) -> None:
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _other_shape(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["embed_dim"] = 24
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("damage", [_without_config, _pickle_only, _cut_weights, _other_shape, shutil.rmtree])
def test_a_damaged_folder_is_refused_with_a_one_line_message(clip_folder: Path, tmp_path: Path, damage: object) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    damage(copy)  # type: ignore[operator]
    with pytest.raises(ModelUnavailable) as caught:
        load_embedder(f"local-dir:{copy}")
    assert str(copy) in caught.value.message
    assert "Traceback" not in caught.value.message
    assert "\n" not in caught.value.message


def test_pickled_weights_beside_safetensors_are_never_opened(clip_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    (copy / "open_clip_model.safetensors").rename(copy / "open_clip_pytorch_model.safetensors")
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"would be run when opened")
    assert load_embedder(f"local-dir:{copy}").embed_texts(["a"]).shape == (1, 16)


@pytest.mark.parametrize("name", ["ViT-B-32", "nothing/at-all", "ViT-B-32/no_such_tag", "", "local-dir:", "hf-hub:"])
def test_an_unknown_model_name_is_refused(name: str) -> None:
    assert can_load(name).where in ("nowhere", "download")
    with pytest.raises(ModelUnavailable):
        load_embedder(name)


def test_without_the_hub_the_pinned_commit_of_a_cached_model_is_loaded_and_any_other_model_is_reported(
    clip_folder: Path, tmp_path: Path
) -> None:
    """The main branch of the hub has newer weights; both commits are cached, and the hub is offline."""
    old, new = "a" * 40, "b" * 40
    repo = tmp_path / "hub" / "models--some--clip"
    for commit in (old, new):
        shutil.copytree(clip_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(new)
    weights = repo / "snapshots" / new / "open_clip_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, weights)
    # the newer commit also has a case-sensitive tokenizer
    path = repo / "snapshots" / new / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace"}
    path.write_text(json.dumps(config))
    program = (
        "import json\nfrom retllm.embedding import load_embedder\nfrom retllm.errors import ModelUnavailable\n"
        "def made(name):\n"
        "    embedder = load_embedder(name, device='cpu')\n"
        "    return embedder.info.revision, embedder.embed_texts(['A Robin']).tolist()\n"
        f"names = ['hf-hub:some/clip@{old}', 'local-dir:{clip_folder}', 'hf-hub:some/clip']\n"
        "found = [made(name) for name in names]\n"
        "for name in ('ViT-B-32/laion2b_s34b_b79k', 'hf-hub:some/other', 'hf-hub:some/other@abc'):\n"
        "    try:\n        found.append(made(name))\n"
        "    except ModelUnavailable as error:\n        found.append(error.message)\n"
        "print(json.dumps(found))"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    pinned, original, moved, *errors = json.loads(done.stdout.splitlines()[-1])
    assert (pinned[0], moved[0]) == (old, new)
    assert pinned[1] == original[1] != moved[1]
    assert len(errors) == 3
    for error in errors:
        assert "is not on this machine and could not be downloaded" in error


def test_a_parsed_name_keeps_its_commit_and_a_public_name_does_not() -> None:
    assert parse("hf-hub:some/clip@abc") == Name("hf-hub:some/clip@abc", repo="some/clip", revision="abc")
    pinned = parse("ViT-B-32/laion2b_s34b_b79k@abc")
    assert (pinned.tag, pinned.revision) == ("laion2b_s34b_b79k", "abc")
    assert public_name("hf-hub:some/clip@abc") == "hf-hub:some/clip"
    assert public_name("local-dir:/models/clip@2") == "local-dir:clip@2"
    with pytest.raises(ModelUnavailable, match="no commit"):
        parse("hf-hub:some/clip@")


@pytest.mark.parametrize(("device", "dtype"), [("gpu9", "auto"), ("cpu", "int8")])
def test_unknown_devices_and_precisions_are_refused(clip_folder: Path, device: str, dtype: str) -> None:
    with pytest.raises(ModelUnavailable):
        load_embedder(f"local-dir:{clip_folder}", device=device, dtype=dtype)


def test_published_models_are_found_without_loading_them() -> None:
    for name in ("ViT-L-14-336/openai", "ViT-B-32/laion2b_s34b_b79k", "hf-hub:timm/ViT-SO400M-14-SigLIP-384"):
        source = can_load(name)
        assert source.where in ("cache", "download")
        assert name in source.message
