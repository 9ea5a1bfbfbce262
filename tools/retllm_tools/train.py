"""``python -m retllm_tools.train``: train the two small models from a fixed seed.

Training of the multimodal model resumes from its last checkpoint if the command is run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import structlog
import torch

from retllm.demo import models_dir
from retllm_tools.train_clip import train_clip
from retllm_tools.train_mllm import train_mllm

log = structlog.get_logger(__name__)

SEED = 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m retllm_tools.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=models_dir(), help="output folder of clip/ and mllm/")
    parser.add_argument("--only", choices=("clip", "mllm"), help="train only this model")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process")
    parser.add_argument("--workers", type=int, default=2, choices=(1, 2), help="processes for the multimodal model")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path(tempfile.gettempdir()) / "retllm-demo-training",
        help="folder of checkpoints; delete them to start from scratch",
    )
    return parser.parse_args()


def main() -> None:
    """Train, and write weights, configuration and ``training.json`` to the folder of each model."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.only != "mllm":
        figures = train_clip(arguments.out / "clip", arguments.seed)
        log.info("clip trained", **figures)
    if arguments.only != "clip":
        checkpoint = arguments.checkpoints / f"mllm-{arguments.seed}.pt"
        train_mllm(arguments.out / "mllm", arguments.seed, checkpoint, arguments.workers)


if __name__ == "__main__":
    main()
