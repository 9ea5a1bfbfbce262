"""The packed forward pass of training is the plain model's, and its prompts are the processor's."""

from __future__ import annotations

import random

import pytest
import torch

from retllm.demo.claims import loose_claim
from retllm.demo.scenes import random_scene, render
from retllm.fine import Content, load_prompts
from retllm_tools.lessons import Mix, ask, describe, judge
from retllm_tools.mllm import build_model, build_processor
from retllm_tools.packed import Packer, logits


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    processor = build_processor(seed=1)
    return build_model(processor).eval(), processor


@pytest.fixture(scope="module")
def asked():
    """Three scenes with two questions each."""
    rng = random.Random(5)
    scenes = [random_scene(rng, held_out=False) for _ in range(3)]
    return [render(scene) for scene in scenes], [ask(str(loose_claim(scene, rng))) for scene in scenes for _ in "ab"]


def prompt_of(processor, question):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_the_question_is_the_platforms():
    """Training asks in the words of the platform's prompt file, for text to image and image to text alike."""
    picture = Content(image=render(random_scene(random.Random(1), held_out=False)))
    said = Content(text="a red circle above a blue ring")
    prompts = load_prompts()
    for query, candidate in ((said, picture), (picture, said)):
        shown, question = prompts.message("true_false", query, candidate)
        assert shown is picture.picture
        assert question == ask(said.text)


def test_a_packed_prompt_has_the_processors_tokens(untrained, asked):
    """Shared prefix and segment together are what the processor makes of the whole prompt."""
    _, processor = untrained
    pictures, questions = asked
    packer = Packer(processor)
    batch = packer.pack(pictures, packer.segments(questions, ["True"] * 6, whole=False))
    assert len(batch.prefix) > len(packer.prefix)
    for row, question in enumerate(questions):
        whole = processor(text=[prompt_of(processor, question)], images=[pictures[row // 2]], return_tensors="pt")
        tokens = whole.input_ids[0].tolist()
        packed = batch.prefix.tolist() + batch.tokens[row].tolist()
        assert packed[: len(tokens)] == tokens
        assert set(packed[len(tokens) :]) <= {processor.tokenizer.pad_token_id}


def test_a_packed_pass_equals_one_prompt_at_a_time(untrained, asked):
    """The logits that training sees are those of the plain model on each prompt alone."""
    model, processor = untrained
    pictures, questions = asked
    packer = Packer(processor)
    with torch.inference_mode():
        packed, targets = logits(
            model, packer.pack(pictures, packer.segments(questions, ["True", "False"] * 3, whole=False))
        )
        for row, question in enumerate(questions):
            whole = processor(text=[prompt_of(processor, question)], images=[pictures[row // 2]], return_tensors="pt")
            torch.testing.assert_close(packed[row], model(**whole).logits[0, -1], atol=1e-5, rtol=1e-4)
    assert processor.tokenizer.convert_ids_to_tokens(targets.tolist()) == ["True", "False"] * 3


def test_injection_changes_the_answer_and_leaves_no_trace(untrained, asked):
    """With visual tokens mixed in the logits differ; afterwards the model is as it was."""
    model, processor = untrained
    pictures, questions = asked
    packer = Packer(processor)
    batch = packer.pack(pictures, packer.segments(questions, ["True"] * 6, whole=False))
    with torch.inference_mode():
        before, _ = logits(model, batch)
        mixed, _ = logits(model, batch, inject_at=3)
        after, _ = logits(model, batch)
        none, _ = logits(model, batch, inject_at=3, alpha=0.0)
    assert (mixed - before).abs().max() > 1e-3
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(none, before)


def test_answers_are_single_tokens(untrained):
    """With and without a leading space."""
    tokenizer = untrained[1].tokenizer
    for word in ("True", "False", " True", " False"):
        assert len(tokenizer.encode(word)) == 1


def test_lessons_are_balanced_and_follow_from_their_seed():
    """Each true caption comes with a false one; describing has the same number of captions for each picture."""
    lesson = judge(random.Random(3), pictures=6, pairs=4, mix=Mix(0.5, 0.2, ("place", "shape")))
    assert lesson.answers == ["True", "False"] * 24
    assert len(lesson.questions) == 48
    assert (
        lesson.questions
        == judge(random.Random(3), pictures=6, pairs=4, mix=Mix(0.5, 0.2, ("place", "shape"))).questions
    )
    told = describe(random.Random(3), pictures=4, each=2)
    assert len(told.pictures) == 4
    assert len(told.answers) == len(told.questions) == 8
