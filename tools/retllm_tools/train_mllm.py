"""Training of the small multimodal model in three stages: seeing, describing, judging True or False.

With judging alone the model stays at chance for a long time, and learns shapes and relations last. Two auxiliary losses
keep judging from undoing the first two stages: the words of true captions stay targets, and a probe predicts at each
word whether the caption is true so far. In the second part of judging, which is about relations, another probe predicts
the row and column of each visual token: rotary positions guide the attention of the decoder, but a word that attends to
"the red circle" only learns where it is if the visual token encodes its position. A part of the judging batches runs
with re-injection into one feed-forward layer, as the fine stage may do; a model of two million parameters, unlike a
large one, is not robust to that without training.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
import torch.nn.functional as F  # noqa: N812
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from retllm.demo.claims import caption
from retllm.demo.scenes import render
from retllm.demo.variants import CATEGORIES, FAMILY_SIZE, gallery, hard_pairs
from retllm_tools.lessons import Lesson, Mix, around, ask, describe, judge
from retllm_tools.mllm import GRID, build_model, build_processor, save
from retllm_tools.packed import Packer, encode_pictures, logits, states
from retllm_tools.train_sight import SightRecipe, rate, train_sight

log = structlog.get_logger(__name__)

#: the layer of re-injection by the default trigger in a model of six layers: the one after start < l < end, floors
#: of 5/28 and 16/28 of the depth (method, section 4)
INJECTED_LAYER = 3
ALPHA = 0.3
#: seed of galleries and pairs for development; reported metrics use other seeds
DEVELOPMENT_SEED = 1


@dataclass(frozen=True)
class JudgeStage:
    """A part of the judging stage with its own learning rate schedule.

    Attributes:
        steps: number of steps.
        mix: composition of the lessons.
        place_weight: weight of the loss on row and column of each visual token.
        fades: number of steps after which the cosine learning rate reaches zero. A shorter stage ends before, since
            shapes, which are learned late and suddenly, are not learned at a low rate.
        peak: maximum learning rate.
    """

    steps: int
    mix: Mix
    place_weight: float
    fades: int
    peak: float = 1.2e-3


_PLACE_OR_PROPERTY = ("place", "colour", "shape", "size")


@dataclass(frozen=True)
class MllmRecipe:
    """The settings of one training run of the small multimodal model."""

    sight: SightRecipe = field(default_factory=SightRecipe)
    describe_steps: int = 500
    #: first objects and places, then relations between two objects
    judge: tuple[JudgeStage, ...] = (
        JudgeStage(2000, Mix(0.5, 0.2, ("place", *_PLACE_OR_PROPERTY)), place_weight=0.0, fades=3000),
        JudgeStage(3200, Mix(0.1, 0.5, (*["place"] * 3, *_PLACE_OR_PROPERTY), swaps=2.0), place_weight=0.3, fades=3200),
    )
    describe_pictures: int = 64
    judge_pictures: int = 16
    pairs: int = 4
    describe_rate: float = 1.5e-3
    warm_up: int = 150
    injected_share: float = 0.35
    #: weights of the auxiliary losses of judging: words of true captions; whether the caption is true so far
    told_weight: float = 1.0
    sound_weight: float = 1.0
    log_every: int = 100
    measure_every: int = 250

    @property
    def steps(self) -> int:
        """Return the number of steps of describing and judging."""
        return self.describe_steps + sum(stage.steps for stage in self.judge)

    def judging(self, step: int) -> tuple[JudgeStage, int]:
        """Return the judging stage of ``step``, and the step within that stage."""
        step -= self.describe_steps
        for stage in self.judge[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.judge[-1], step


def p_true(model: Any, packer: Packer, lesson: Lesson, inject_at: int | None = None) -> torch.Tensor:
    """Return P("True") over the full vocabulary for each question of the lesson: (pictures, questions per picture)."""
    batch = packer.pack(lesson.pictures, packer.segments(lesson.questions, ["True"] * len(lesson.questions), False))
    with torch.inference_mode():
        scores, targets = logits(model, batch, inject_at, ALPHA)
    return scores.float().softmax(-1).gather(1, targets[:, None]).reshape(len(lesson.pictures), -1)


def measure(model: Any, packer: Packer, seed: int, inject_at: int | None, pairs: int = 64) -> dict[str, float]:
    """Return the pairwise accuracy in each category and R@1 within families of eight, on held-out scenes."""
    model.eval()
    figures: dict[str, float] = {}
    for category in CATEGORIES:
        hard = hard_pairs(category, pairs, seed)
        questions = [ask(str(claim)) for pair in hard for claim in (pair.true, pair.false)]
        probabilities = p_true(model, packer, Lesson([render(pair.scene) for pair in hard], questions, []), inject_at)
        figures[category] = round((probabilities[:, 0] > probabilities[:, 1]).float().mean().item(), 3)
    members = gallery(8, seed)
    pictures = [render(scene) for family in members for scene in family]
    questions = [ask(caption(query)) for family in members for _ in family for query in family]
    probabilities = p_true(model, packer, Lesson(pictures, questions, []), inject_at)
    grid = probabilities.reshape(-1, FAMILY_SIZE, FAMILY_SIZE)  # family, picture, caption
    best = grid.argmax(1)
    figures["family_r@1"] = round((best == torch.arange(FAMILY_SIZE)).float().mean().item(), 3)
    model.train()
    return figures


#: the lesson of a step has this many parts, so that it is the same for one worker and for two
_PARTS = 2


@dataclass(frozen=True)
class Worker:
    """One of ``count`` processes that share the work of each step; rank 0 writes the files."""

    rank: int = 0
    count: int = 1

    @property
    def parts(self) -> range:
        """Return the parts of each lesson that this worker computes."""
        return range(self.rank, _PARTS, self.count)


class _Run:
    """A training run that can resume from its checkpoint."""

    def __init__(self, seed: int, recipe: MllmRecipe, checkpoint: Path, worker: Worker) -> None:
        torch.manual_seed(seed)
        self.seed, self.recipe, self.checkpoint, self.worker = seed, recipe, checkpoint, worker
        self.processor = build_processor(seed)
        self.packer = Packer(self.processor)
        self.model = build_model(self.processor).train()
        # eager attention: on a CPU its backward pass on short sequences is several times faster than the fused one
        self.model.set_attn_implementation("eager")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, weight_decay=0.02, betas=(0.9, 0.98), fused=True
        )
        # probes, not part of the model: "true so far" from the hidden states, row and column from visual tokens
        width = self.model.config.text_config.hidden_size
        self.probe = nn.ModuleDict({"sound": nn.Linear(width, 1), "place": nn.Linear(width, 2 * GRID)})
        self.probe_optimizer = torch.optim.AdamW(self.probe.parameters(), lr=1e-3)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        if checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.probe.load_state_dict(state["probe"])
        self.probe_optimizer.load_state_dict(state["probe_optimizer"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        log.info("resumed", step=self.step)

    def save_checkpoint(self) -> None:
        """Write the checkpoint atomically."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "probe": self.probe.state_dict(),
                "probe_optimizer": self.probe_optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "history": self.history,
            },
            temporary,
        )
        temporary.replace(self.checkpoint)

    def lesson(self) -> tuple[Lesson, float, int | None]:
        """Return lesson, learning rate and layer of re-injection of this step, which depend on seed and step only."""
        recipe, common = self.recipe, f"mllm/{self.seed}/{self.step}"
        generators = [random.Random(f"{common}/{part}") for part in self.worker.parts]
        if self.step < recipe.describe_steps:
            learning_rate = rate(self.step, recipe.describe_steps, recipe.describe_rate, recipe.warm_up)
            described = [describe(rng, recipe.describe_pictures // _PARTS, 2) for rng in generators]
            return _joined(described), max(learning_rate, recipe.describe_rate * 0.1), None
        stage, step = recipe.judging(self.step)
        inject_at = INJECTED_LAYER if random.Random(common).random() < recipe.injected_share else None
        pictures = recipe.judge_pictures // _PARTS
        judged = [judge(rng, pictures, recipe.pairs, stage.mix) for rng in generators]
        return _joined(judged), rate(step, stage.fades, stage.peak, recipe.warm_up), inject_at

    def advance(self) -> float:
        """Run one step and return its loss."""
        lesson, learning_rate, inject_at = self.lesson()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # bfloat16 with float32 weights: twice as fast on a CPU that supports it
        with torch.autocast("cpu", torch.bfloat16):
            loss, total = self._losses(lesson, inject_at)
        self.probe_optimizer.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.probe_optimizer.step()
        self.step += 1
        return loss.item()

    def _losses(self, lesson: Lesson, inject_at: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of the answers, and the total loss with the auxiliary losses of judging."""
        judging = self.step >= self.recipe.describe_steps
        if judging:
            segments = self.packer.judged(lesson.questions, lesson.answers, *around())
        else:
            segments = self.packer.segments(lesson.questions, lesson.answers, whole=True)
        batch = self.packer.pack(lesson.pictures, segments)
        seen = encode_pictures(self.model, batch)
        hidden = states(self.model, batch, seen, inject_at, ALPHA)
        loss = self._word_loss(hidden, batch.targets)
        if not judging:
            return loss, loss
        known = batch.truth >= 0
        predicted = self.probe["sound"](hidden[known])[:, 0].float()
        truth_loss = F.binary_cross_entropy_with_logits(predicted, batch.truth[known].float())
        caption_loss = self._word_loss(hidden, batch.caption)
        stage, _ = self.recipe.judging(self.step)
        auxiliary = self.recipe.told_weight * caption_loss + self.recipe.sound_weight * truth_loss
        if stage.place_weight:
            auxiliary = auxiliary + stage.place_weight * self._place_loss(seen.visual)
        return loss, loss + auxiliary

    def _place_loss(self, visual: torch.Tensor) -> torch.Tensor:
        """Return the loss of predicting row and column of each visual token (B, cells, d)."""
        row, column = self.probe["place"](visual).float().split(GRID, dim=-1)
        cell = torch.arange(GRID * GRID).repeat(len(visual))
        return F.cross_entropy(row.flatten(0, 1), cell // GRID) + F.cross_entropy(column.flatten(0, 1), cell % GRID)

    def _word_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        has_target = targets != -100
        return F.cross_entropy(self.model.lm_head(hidden[has_target]).float(), targets[has_target])

    def _share_gradients(self) -> None:
        if self.worker.count == 1:
            return
        shared = (*self.model.parameters(), *self.probe.parameters())
        gradients = [parameter.grad for parameter in shared if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.worker.count
        for gradient, mean in zip(gradients, torch.split(flat, [len(g.flatten()) for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def record(self, losses: list[float]) -> None:
        """Record the mean loss and, every ``measure_every`` steps, the accuracies; write the checkpoint then."""
        entry: dict[str, Any] = {
            "step": self.step,
            "loss": round(sum(losses) / len(losses), 4),
            "seconds": round(self.seconds),
        }
        if self.worker.rank:
            return
        due = self.step % self.recipe.measure_every == 0
        if due and self.step > self.recipe.describe_steps:
            entry |= measure(self.model, self.packer, DEVELOPMENT_SEED, None)
        self.history.append(entry)
        if due:
            self.save_checkpoint()
        log.info("mllm", **entry)


def _joined(lessons: list[Lesson]) -> Lesson:
    return Lesson(
        [picture for lesson in lessons for picture in lesson.pictures],
        [question for lesson in lessons for question in lesson.questions],
        [answer for lesson in lessons for answer in lesson.answers],
    )


def _work(
    rank: int, count: int, rendezvous: str, folder: Path, seed: int, checkpoint: Path, recipe: MllmRecipe
) -> None:
    """Run the training of one worker; rank 0 saves the result."""
    if count > 1:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=count)
    run = _Run(seed, recipe, checkpoint, Worker(rank, count))
    losses: list[float] = []
    started = time.monotonic()
    while run.step < recipe.steps:
        losses.append(run.advance())
        if run.step % recipe.log_every == 0:
            run.seconds += time.monotonic() - started
            started = time.monotonic()
            run.record(losses)
            losses = []
    if rank == 0:
        run.save_checkpoint()
        _finish(run, folder)
    if count > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def _finish(run: _Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save(folder, run.model, run.processor)
    figures = {
        "seed": run.seed,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "seconds": round(run.seconds),
        "recipe": asdict(run.recipe),
        "development_plain": measure(run.model, run.packer, DEVELOPMENT_SEED, None),
        "development_injected": measure(run.model, run.packer, DEVELOPMENT_SEED, INJECTED_LAYER),
        "history": run.history,
    }
    (folder / "training.json").write_text(json.dumps(figures, indent=1) + "\n")


def train_mllm(folder: Path, seed: int, checkpoint: Path, workers: int = 1, recipe: MllmRecipe | None = None) -> None:
    """Train from ``seed`` or resume from ``checkpoint``; save model, processor and metrics to ``folder``.

    Args:
        folder: output folder of the model and ``training.json``.
        seed: seed of all random numbers.
        checkpoint: file to resume from and to write.
        workers: 1 or 2 processes that share the work of each step; the result is the same up to rounding.
        recipe: None for the default.
    """
    recipe = recipe or MllmRecipe()
    if not checkpoint.exists():
        run = _Run(seed, recipe, checkpoint, Worker())
        trained, figures = train_sight(run.processor, seed, recipe.sight)
        run.model.load_state_dict(trained.state_dict())
        run.history.append({"sight": figures})
        run.save_checkpoint()
    if workers == 1:
        _work(0, 1, "", folder, seed, checkpoint, recipe)
        return
    with tempfile.TemporaryDirectory() as scratch:
        rendezvous = str(Path(scratch) / "rendezvous")
        spawn(  # type: ignore[no-untyped-call]
            _work, (workers, rendezvous, folder, seed, checkpoint, recipe), nprocs=workers
        )
