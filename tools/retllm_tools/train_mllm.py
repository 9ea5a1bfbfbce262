"""Training of the small multimodal model: first it learns to see, then to describe, then to judge True or False.

Three stages, for a reason: asked True or False from the start it stays at chance for a long time, and shapes and
relations come last. Two aids keep judging from undoing what seeing and describing taught: the words of true captions
stay targets, and a probe is asked, word by word, whether the caption is still true. In the second part of judging,
which is about relations, another asks each visual token for its row and column: the rotary positions of the decoder
steer where it looks, but a word that has found "the red circle" can only tell where that is if the visual token itself
says so. A part of the judging batches runs with visual tokens mixed into one feed-forward layer, as the platform's fine
stage may do at the same place; a model of two million parameters is not robust to that by itself, as a large one is.
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
from retllm_tools.packed import Packer, logits, see, states
from retllm_tools.train_sight import SightRecipe, rate, train_sight

log = structlog.get_logger(__name__)

#: the layer that the default trigger arms in a model of six layers: the one after start < l < end, floors of
#: 5/28 and 16/28 of the depth (method, section 4)
INJECTED_LAYER = 3
ALPHA = 0.3
#: galleries and pairs of this seed guide the training; the reported figures use others
DEVELOPMENT_SEED = 1


@dataclass(frozen=True)
class JudgeStage:
    """A part of learning to judge, with a learning rate that rises anew.

    Attributes:
        steps: how many.
        mix: what the lessons are made of.
        place_weight: weight of the aid that asks each visual token for its row and column.
        fades: steps after which the cosine of the learning rate would be at zero; a stage that is shorter ends before,
            since what is learned late and all at once, the shapes, does not come at a low rate.
        peak: highest learning rate.
    """

    steps: int
    mix: Mix
    place_weight: float
    fades: int
    peak: float = 1.2e-3


_PLACE_OR_THING = ("place", "colour", "shape", "size")


@dataclass(frozen=True)
class MllmRecipe:
    """The settings of one training run of the small multimodal model."""

    sight: SightRecipe = field(default_factory=SightRecipe)
    describe_steps: int = 500
    #: first what things are and what a place is, then which of two objects is where
    judge: tuple[JudgeStage, ...] = (
        JudgeStage(2000, Mix(0.5, 0.2, ("place", *_PLACE_OR_THING)), place_weight=0.0, fades=3000),
        JudgeStage(3200, Mix(0.1, 0.5, (*["place"] * 3, *_PLACE_OR_THING), swaps=2.0), place_weight=0.3, fades=3200),
    )
    describe_pictures: int = 64
    judge_pictures: int = 16
    pairs: int = 4
    describe_rate: float = 1.5e-3
    warm_up: int = 150
    injected_share: float = 0.35
    #: weights of the aids while judging: the words of true captions, and how long a caption has been true
    told_weight: float = 1.0
    sound_weight: float = 1.0
    log_every: int = 100
    measure_every: int = 250

    @property
    def steps(self) -> int:
        """Steps of describing and judging together."""
        return self.describe_steps + sum(stage.steps for stage in self.judge)

    def judging(self, step: int) -> tuple[JudgeStage, int]:
        """The stage of judging that ``step`` lies in, and which step of that stage it is."""
        step -= self.describe_steps
        for stage in self.judge[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.judge[-1], step


def p_true(model: Any, packer: Packer, lesson: Lesson, inject_at: int | None = None) -> torch.Tensor:
    """P("True") over the full vocabulary for each question of the lesson, (pictures, questions each)."""
    batch = packer.pack(lesson.pictures, packer.segments(lesson.questions, ["True"] * len(lesson.questions), False))
    with torch.inference_mode():
        scores, targets = logits(model, batch, inject_at, ALPHA)
    return scores.float().softmax(-1).gather(1, targets[:, None]).reshape(len(lesson.pictures), -1)


def measure(model: Any, packer: Packer, seed: int, inject_at: int | None, pairs: int = 64) -> dict[str, float]:
    """Pairwise accuracy in each category and R@1 inside families of eight, on held-out scenes."""
    model.eval()
    figures: dict[str, float] = {}
    for category in CATEGORIES:
        hard = hard_pairs(category, pairs, seed)
        questions = [ask(str(claim)) for pair in hard for claim in (pair.true, pair.false)]
        chances = p_true(model, packer, Lesson([render(pair.scene) for pair in hard], questions, []), inject_at)
        figures[category] = round((chances[:, 0] > chances[:, 1]).float().mean().item(), 3)
    members = gallery(8, seed)
    pictures = [render(scene) for family in members for scene in family]
    questions = [ask(caption(query)) for family in members for _ in family for query in family]
    chances = p_true(model, packer, Lesson(pictures, questions, []), inject_at)
    grid = chances.reshape(-1, FAMILY_SIZE, FAMILY_SIZE)  # family, picture, caption
    best = grid.argmax(1)
    figures["family_r@1"] = round((best == torch.arange(FAMILY_SIZE)).float().mean().item(), 3)
    model.train()
    return figures


#: every step's lesson has this many parts, so that it is the same for one worker and for two
_PARTS = 2


@dataclass(frozen=True)
class Worker:
    """One of ``count`` processes that share each step's work; 0 is the one that writes."""

    rank: int = 0
    count: int = 1

    @property
    def parts(self) -> range:
        """The parts of each lesson that this worker computes."""
        return range(self.rank, _PARTS, self.count)


class _Run:
    """One training run that can be taken up again from its checkpoint."""

    def __init__(self, seed: int, recipe: MllmRecipe, checkpoint: Path, worker: Worker) -> None:
        torch.manual_seed(seed)
        self.seed, self.recipe, self.checkpoint, self.worker = seed, recipe, checkpoint, worker
        self.processor = build_processor(seed)
        self.packer = Packer(self.processor)
        self.model = build_model(self.processor).train()
        # plain attention: on short sequences its backward pass is several times faster on a CPU than the fused one
        self.model.set_attn_implementation("eager")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, weight_decay=0.02, betas=(0.9, 0.98), fused=True
        )
        # aids that are not part of the model: "true so far" from the hidden states, row and column from visual tokens
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

    def keep(self) -> None:
        """Write the checkpoint; a torn write can't replace the one before."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.checkpoint.with_suffix(".part")
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
            fresh,
        )
        fresh.replace(self.checkpoint)

    def lesson(self) -> tuple[Lesson, float, int | None]:
        """This step's lesson, learning rate and injected layer; all of it follows from seed and step."""
        recipe, common = self.recipe, f"mllm/{self.seed}/{self.step}"
        dice = [random.Random(f"{common}/{part}") for part in self.worker.parts]
        if self.step < recipe.describe_steps:
            pace = rate(self.step, recipe.describe_steps, recipe.describe_rate, recipe.warm_up)
            told = [describe(rng, recipe.describe_pictures // _PARTS, 2) for rng in dice]
            return _joined(told), max(pace, recipe.describe_rate * 0.1), None
        stage, step = recipe.judging(self.step)
        inject_at = INJECTED_LAYER if random.Random(common).random() < recipe.injected_share else None
        pictures = recipe.judge_pictures // _PARTS
        judged = [judge(rng, pictures, recipe.pairs, stage.mix) for rng in dice]
        return _joined(judged), rate(step, stage.fades, stage.peak, recipe.warm_up), inject_at

    def advance(self) -> float:
        """One step; returns its loss."""
        lesson, pace, inject_at = self.lesson()
        for group in self.optimizer.param_groups:
            group["lr"] = pace
        # bfloat16 with float32 weights: half the time on a CPU that has it
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
        """The loss of the answers, and that loss with the aids of judging added."""
        judging = self.step >= self.recipe.describe_steps
        if judging:
            segments = self.packer.judged(lesson.questions, lesson.answers, *around())
        else:
            segments = self.packer.segments(lesson.questions, lesson.answers, whole=True)
        batch = self.packer.pack(lesson.pictures, segments)
        seen = see(self.model, batch)
        hidden = states(self.model, batch, seen, inject_at, ALPHA)
        loss = self._word_loss(hidden, batch.targets)
        if not judging:
            return loss, loss
        known = batch.sound >= 0
        verdict = self.probe["sound"](hidden[known])[:, 0].float()
        sound = F.binary_cross_entropy_with_logits(verdict, batch.sound[known].float())
        told = self._word_loss(hidden, batch.told)
        stage, _ = self.recipe.judging(self.step)
        aids = self.recipe.told_weight * told + self.recipe.sound_weight * sound
        if stage.place_weight:
            aids = aids + stage.place_weight * self._place_loss(seen.visual)
        return loss, loss + aids

    def _place_loss(self, visual: torch.Tensor) -> torch.Tensor:
        """How badly each visual token (B, cells, d) tells the row and the column that it lies in."""
        row, column = self.probe["place"](visual).float().split(GRID, dim=-1)
        cell = torch.arange(GRID * GRID).repeat(len(visual))
        return F.cross_entropy(row.flatten(0, 1), cell // GRID) + F.cross_entropy(column.flatten(0, 1), cell % GRID)

    def _word_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wanted = targets != -100
        return F.cross_entropy(self.model.lm_head(hidden[wanted]).float(), targets[wanted])

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

    def note(self, losses: list[float]) -> None:
        """Keep the mean loss and, now and then, the accuracies."""
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
            self.keep()
        log.info("mllm", **entry)


def _joined(lessons: list[Lesson]) -> Lesson:
    return Lesson(
        [picture for lesson in lessons for picture in lesson.pictures],
        [question for lesson in lessons for question in lesson.questions],
        [answer for lesson in lessons for answer in lesson.answers],
    )


def _work(rank: int, count: int, meeting: str, folder: Path, seed: int, checkpoint: Path, recipe: MllmRecipe) -> None:
    """One worker's training from beginning to end; the first one saves the result."""
    if count > 1:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    run = _Run(seed, recipe, checkpoint, Worker(rank, count))
    losses: list[float] = []
    started = time.monotonic()
    while run.step < recipe.steps:
        losses.append(run.advance())
        if run.step % recipe.log_every == 0:
            run.seconds += time.monotonic() - started
            started = time.monotonic()
            run.note(losses)
            losses = []
    if rank == 0:
        run.keep()
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
    """Train from ``seed`` or go on from ``checkpoint``; save model, processor and figures to ``folder``.

    Args:
        folder: where the model goes, with ``training.json`` beside it.
        seed: of everything.
        checkpoint: file to go on from and to write to.
        workers: 1 or 2 processes that share each step's work; both ways compute the same up to rounding.
        recipe: None for the default.
    """
    recipe = recipe or MllmRecipe()
    if not checkpoint.exists():
        run = _Run(seed, recipe, checkpoint, Worker())
        sighted, figures = train_sight(run.processor, seed, recipe.sight)
        run.model.load_state_dict(sighted.state_dict())
        run.history.append({"sight": figures})
        run.keep()
    if workers == 1:
        _work(0, 1, "", folder, seed, checkpoint, recipe)
        return
    with tempfile.TemporaryDirectory() as scratch:
        meeting = str(Path(scratch) / "meeting")
        spawn(  # type: ignore[no-untyped-call]
            _work, (workers, meeting, folder, seed, checkpoint, recipe), nprocs=workers
        )
