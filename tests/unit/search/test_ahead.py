"""A score worker prepares the pictures of its next pairs while it scores the present ones."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from tests.unit.job_world import World
from tests.unit.search.pools import ready_units
from tests.unit.stand_ins import FakeEmbedder, FakeScorer, index, png, run, search, view_of

from retllm.db.enums import JobState, Stage, UnitState
from retllm.db.searches import Score
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import ModelUnavailable
from retllm.fine import Content, Picture, Scorer, load_scorer
from retllm.fine.content import PreparedPicture
from retllm.history import control
from retllm.media.ingest import Ingest
from retllm.media.storage import Storage
from retllm.queue.worker import Finisher, Following, WorkerContext, current_claims, run_unit, run_units
from retllm.search.coarse_worker import coarse_unit
from retllm.search.fine_worker import FineUnits
from retllm.settings import PRESETS

# longer than any wait takes on a busy machine
DEADLINE = 60
COUNT = 8


class Preparing(FakeScorer):
    """Scores a picture by its redness, from what was prepared if there is any; records the calls and who prepared."""

    pairs_at_once = 2
    info = replace(FakeScorer.info, device="cuda:0")

    def __init__(self) -> None:
        super().__init__(lambda _: (0.5, 0.1))
        self.calls: list[int] = []
        self.prepared: list[str] = []
        self.changed = threading.Condition()
        self.used: list[str] = []
        self.before: Callable[[], object] = lambda: None

    def prepares(self, picture: Picture) -> bool:
        return True

    def prepare(self, picture: Picture) -> PreparedPicture:  # type: ignore[override]
        with self.changed:
            self.prepared.append(picture.key)
            self.changed.notify_all()
        image = picture.rgb()
        return PreparedPicture(image, None, 4 * image.width * image.height)

    def score_pairs(self, pairs: Sequence[tuple[Content, Content]], *arguments: Any, **ways: Any) -> list[Any]:
        self.calls.append(len(pairs))
        self.before()
        return super().score_pairs(pairs, *arguments, **ways)

    def _score(self, candidate: Content, *more: Any) -> Any:
        assert candidate.picture is not None
        found = candidate.picture.prepared()
        if found is not None:
            self.used.append(candidate.picture.key)
        image = found.image if found is not None else candidate.picture.rgb()
        self._answer = lambda _: (0.1 + float(np.asarray(image)[..., 0].mean()) / 400, 0.1)
        return super()._score(candidate, *more)


@pytest.fixture
def found(context: WorkerContext, world: World) -> Iterator[UUID]:
    """A search of eight pictures in units of two, whose coarse stage is done."""
    ingest = Ingest(world.sessions, context.storage, world.settings, world.collection_id)
    for at in range(COUNT):
        ingest.add_picture(f"{at}.png", png((30 * at, 100, 0), (64 + 20 * at, 64)))
    index(context, world)
    yield searched(context, world)
    assert current_claims() == []
    assert not [one.name for one in threading.enumerate() if one.name.startswith(("decode", "following", "lease"))]


def searched(context: WorkerContext, world: World, text: str = "red") -> UUID:
    key = search(world, text=text, k=COUNT)
    run_unit(context, world.units(key)[0].id, lambda c, held: coarse_unit(c, held, lambda _: FakeEmbedder()))
    return key


def go(context: WorkerContext, unit_id: UUID, scorer: Any, stops: Callable[[], bool] = lambda: False) -> bool:
    finisher = Finisher()
    units = FineUnits(lambda: scorer, stops)
    try:
        return run_units(
            context, unit_id, units, items=scorer.pairs_at_once, finisher=finisher, following=units.following
        )
    finally:
        finisher.wait()


def states(world: World, key: UUID) -> list[str]:
    return [unit.state.value for unit in world.units(key, Stage.FINE)]


def test_one_message_does_all_units_and_the_next_pictures_are_prepared_in_the_present_call(
    context: WorkerContext, world: World, found: UUID
) -> None:
    scorer = Preparing()

    def wait_for_the_next_pictures() -> None:
        wanted = min(COUNT, 2 * (len(scorer.calls) + 1))
        with scorer.changed:
            assert scorer.changed.wait_for(lambda: len(scorer.prepared) >= wanted, DEADLINE)

    scorer.before = wait_for_the_next_pictures
    assert go(context, ready_units(world, found)[0], scorer)
    assert scorer.calls == [2, 2, 2, 2]
    assert states(world, found) == ["done"] * 4
    assert len(scorer.used) == len(set(scorer.prepared)) == COUNT
    rows = {row.name: row.score for row in view_of(world, found).candidates}
    assert rows == {f"{at}.png": pytest.approx(0.1 + 30 * at / 400, abs=0.01) for at in range(COUNT)}


def test_a_picture_that_cannot_be_decoded_costs_only_its_own_pair(
    context: WorkerContext, world: World, found: UUID
) -> None:
    with world.sessions() as session:
        keys = {item.name: item.picture_key for item in session.query(Item)}
    context.storage.put(keys["3.png"] or "", io.BytesIO(png((250, 0, 0)).getvalue()[:60]))
    context.storage.delete(keys["6.png"] or "")
    assert go(context, ready_units(world, found)[0], Preparing())
    view = view_of(world, found)
    assert view.job.state is JobState.SUCCEEDED
    errors = {row.name: row.error for row in view.candidates if row.score is None}
    assert set(errors) == {"3.png", "6.png"}
    assert (errors["3.png"] or "").startswith("3.png: The file is damaged")
    assert errors["6.png"] == "6.png: The stored file is missing."


def test_a_picture_that_can_be_read_at_the_second_try_is_scored(
    context: WorkerContext, world: World, found: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    plain = Storage.open

    def away_at_first(storage: Storage, key: str) -> Any:
        tries.append(key)
        if len(tries) == 1:
            raise ConnectionError("no route to the bucket")
        return plain(storage, key)

    monkeypatch.setattr(Storage, "open", away_at_first)
    first = ready_units(world, found)[0]
    assert go(context, first, Preparing())
    assert states(world, found) == ["ready", "done", "done", "done"]
    assert go(context, first, Preparing())
    assert states(world, found) == ["done"] * 4


def test_a_cancelled_search_loses_the_units_that_were_begun_and_the_other_is_done(
    context: WorkerContext, world: World, found: UUID
) -> None:
    other = searched(context, world)
    scorer = Preparing()
    scorer.pairs_at_once = 4

    def cancel() -> None:
        if len(scorer.calls) == 1:
            with transaction(world.sessions) as session:
                control.cancel_job(session, world.user, other)

    scorer.before = cancel
    assert go(context, ready_units(world, found)[0], scorer)
    assert states(world, found) == ["done"] * 4
    assert view_of(world, other).job.state is JobState.CANCELLED
    with world.sessions() as session:
        assert session.query(Score).filter_by(search_id=other).count() == 0


def test_a_worker_that_stops_claims_nothing_more(context: WorkerContext, world: World, found: UUID) -> None:
    scorer, stopping = Preparing(), threading.Event()
    scorer.before = lambda: stopping.set() if len(scorer.calls) == 2 else None
    assert go(context, ready_units(world, found)[0], scorer, stopping.is_set)
    # the third was claimed before, or not
    assert states(world, found) in (["done"] * 2 + ["ready"] * 2, ["done"] * 3 + ["ready"])


def test_on_a_cpu_nothing_is_claimed_ahead(
    context: WorkerContext, world: World, found: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Preparing()
    monkeypatch.setattr(scorer, "info", FakeScorer.info, raising=False)
    assert go(context, ready_units(world, found)[0], scorer)
    assert states(world, found) == ["done"] + ["ready"] * 3


def test_beside_a_unit_that_is_tried_again_nothing_is_claimed(
    context: WorkerContext, world: World, found: UUID
) -> None:
    scorer = Preparing()
    scorer.before = lambda: (_ for _ in ()).throw(RuntimeError("the device is gone"))
    first = ready_units(world, found)[0]
    assert go(context, first, scorer, lambda: True)
    again = Preparing()
    assert go(context, first, again)
    assert again.calls == [2]
    assert states(world, found) == ["done"] + ["ready"] * 3


def test_units_whose_pictures_cannot_be_begun_are_done_all_the_same(
    context: WorkerContext, world: World, found: UUID
) -> None:
    scorer = Preparing()

    def load() -> Preparing:
        if threading.current_thread().name.startswith("following"):
            raise ModelUnavailable("not now")
        return scorer

    units = FineUnits(load, lambda: False)
    following = Following(lambda: 2, units.following.begin)
    assert run_units(context, ready_units(world, found)[0], units, items=2, following=following)
    assert states(world, found) == ["done"] * 4


def test_a_worker_whose_process_is_ended_renews_no_lease_and_keeps_no_thread(
    context: WorkerContext, world: World, found: UUID
) -> None:
    scorer = Preparing()
    scorer.before = lambda: (_ for _ in ()).throw(SystemExit(1))
    with pytest.raises(SystemExit):
        go(context, ready_units(world, found)[0], scorer)
    assert {unit.state for unit in world.units(found, Stage.FINE)} == {UnitState.LEASED, UnitState.READY}


@pytest.fixture(scope="module")
def demo() -> Scorer:
    return load_scorer(PRESETS["demo"].scorer, device="cpu")


@pytest.mark.parametrize("processed", [False, True], ids=["decoded ahead", "processed ahead"])
def test_scores_are_equal_to_the_last_bit_whether_pictures_were_prepared_ahead_or_not(
    context: WorkerContext,
    world: World,
    found: UUID,
    demo: Scorer,
    monkeypatch: pytest.MonkeyPatch,
    processed: bool,
) -> None:
    made: list[PreparedPicture] = []
    plain = demo.prepare
    world.settings.score_cache_rows = 0
    monkeypatch.setattr(Scorer, "pairs_at_once", 2)
    monkeypatch.setattr(demo, "_info", replace(demo.info, device="cuda:0"))
    monkeypatch.setattr(demo, "prepare", lambda picture: made.append(plain(picture)) or made[-1])
    if processed:
        demo.score(Content(text="red"), [Content(image=Image.new("RGB", (64, 64)))])
    else:
        # as before the first picture of all
        demo.loaded.preparer.pixels._options = None
    demo.forget()
    assert go(context, ready_units(world, found)[0], demo)
    assert len(made) == COUNT
    assert all(one.inputs is not None for one in made) if processed else any(one.image is not None for one in made)
    monkeypatch.setattr(demo, "prepares", lambda _: False)
    demo.forget()
    without = searched(context, world)
    run(context, world, without, demo)
    assert len(made) == COUNT
    both = [
        {row.name: (row.score, row.log_odds, row.entropy) for row in view_of(world, key).candidates}
        for key in (found, without)
    ]
    assert both[0] == both[1]
    assert len({score for score, *_ in both[0].values()}) > 1


def test_units_of_several_searches_share_the_passes_of_the_model(
    context: WorkerContext, world: World, found: UUID, demo: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight units of two pairs take one pass over their eight pictures, and one over their sixteen questions."""
    world.settings.score_cache_rows = 0
    monkeypatch.setattr(Scorer, "pairs_at_once", 2 * COUNT)
    # whether the model allows prefixes is found at the first call
    demo.score(Content(text="red"), [Content(image=Image.new("RGB", (64, 64)))])
    demo.forget()
    both, passes = [found, searched(context, world, "blue")], []
    trunk = demo.loaded.decoder.trunk
    handle = trunk.register_forward_pre_hook(
        lambda _, __, given: passes.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    assert go(context, ready_units(world, found)[0], demo)
    handle.remove()
    assert passes == [COUNT, 2 * COUNT]
    assert [states(world, key) for key in both] == [["done"] * 4] * 2
