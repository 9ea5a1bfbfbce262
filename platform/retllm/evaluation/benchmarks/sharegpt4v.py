"""ShareGPT4V's long captions as in Long-CLIP: the first 1,000 entries (arXiv 2403.15378)."""

from __future__ import annotations

from pathlib import Path

from retllm.errors import BenchmarkUnreadable
from retllm.evaluation.benchmark import Benchmark
from retllm.evaluation.benchmarks import files
from retllm.evaluation.benchmarks.karpathy import both_directions

ENTRIES = 1000
FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"
_FILE_ADVICE = "It is published at https://huggingface.co/datasets/Lin-Chen/ShareGPT4V."
_PICTURES = "The first 1,000 entries are pictures of SA-1B, in the folder sam/images next to the JSON file."


def load_sharegpt4v(data: Path) -> Benchmark:
    """Load 1,000 pictures with one long caption each.

    Args:
        data: the folder with the JSON file, and the pictures at the relative paths in that file (``sam/images/...``).

    Raises:
        BenchmarkUnreadable: a file is missing or differs from the published one.
    """
    path = files.find_file(data, [FILE, f"data/{FILE}"], _FILE_ADVICE)
    names: list[str] = []
    captions: list[list[str]] = []
    for place, entry in enumerate(files.first_entries(path, ENTRIES)):
        image, turns = files.fields(entry, ["image", "conversations"], f"entry {place}", path)
        if not isinstance(turns, list) or len(turns) < 2:
            raise BenchmarkUnreadable(f"{path}: entry {place} has no answer in its conversations.", file=str(path))
        speaker, caption = files.fields(turns[1], ["from", "value"], f"the second turn of entry {place}", path)
        if speaker != "gpt":
            raise BenchmarkUnreadable(f"{path}: the second turn of entry {place} is not from 'gpt'.", file=str(path))
        names.append(image)
        captions.append([caption.replace("\n", " ").strip()])
    if not names:
        raise BenchmarkUnreadable(f"{path} has no entries. {_FILE_ADVICE}", file=str(path))
    folder = files.find_folder(path.parent, [".", "data"], _PICTURES, holding=names[0])
    files.check_pictures((folder / name for name in names), _PICTURES)
    return Benchmark("sharegpt4v", both_directions([(folder / name, name) for name in names], captions))
