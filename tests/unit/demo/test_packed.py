"""The packed forward pass of training equals that of the plain model, and its prompts those of the processor."""

from __future__ import annotations

import random

import pytest
import torch

from retllm.demo.claims import random_claim
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
def pictures_and_questions():
    """Three scenes with two questions each."""
    rng = random.Random(5)
    scenes = [random_scene(rng, held_out=False) for _ in range(3)]
    return [render(scene) for scene in scenes], [ask(str(random_claim(scene, rng))) for scene in scenes for _ in "ab"]


def prompt_of(processor, question):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_training_asks_the_question_of_the_platform():
    """Training uses the platform's prompt file, for text to image and for image to text."""
    picture = Content(image=render(random_scene(random.Random(1), held_out=False)))
    caption = Content(text="a red circle above a blue ring")
    prompts = load_prompts()
    for query, candidate in ((caption, picture), (picture, caption)):
        shown, question = prompts.message("true_false", query, candidate)
        assert shown is picture.picture
        assert question == ask(caption.text)


def test_a_packed_prompt_has_the_tokens_of_the_processor(untrained, pictures_and_questions):
    """The shared prefix and the segment are together the tokens of the whole prompt."""
    _, processor = untrained
    pictures, questions = pictures_and_questions
    packer = Packer(processor)
    batch = packer.pack(pictures, packer.segments(questions, ["True"] * 6, whole=False))
    assert len(batch.prefix) > len(packer.prefix)
    for row, question in enumerate(questions):
        whole = processor(text=[prompt_of(processor, question)], images=[pictures[row // 2]], return_tensors="pt")
        tokens = whole.input_ids[0].tolist()
        packed = batch.prefix.tolist() + batch.tokens[row].tolist()
        assert packed[: len(tokens)] == tokens
        assert set(packed[len(tokens) :]) <= {processor.tokenizer.pad_token_id}


def test_a_packed_pass_equals_one_prompt_at_a_time(untrained, pictures_and_questions):
    """The logits are those of the plain model for each prompt alone."""
    model, processor = untrained
    pictures, questions = pictures_and_questions
    packer = Packer(processor)
    with torch.inference_mode():
        packed, targets = logits(
            model, packer.pack(pictures, packer.segments(questions, ["True", "False"] * 3, whole=False))
        )
        for row, question in enumerate(questions):
            whole = processor(text=[prompt_of(processor, question)], images=[pictures[row // 2]], return_tensors="pt")
            torch.testing.assert_close(packed[row], model(**whole).logits[0, -1], atol=1e-5, rtol=1e-4)
    assert processor.tokenizer.convert_ids_to_tokens(targets.tolist()) == ["True", "False"] * 3


def test_injection_changes_the_logits_but_not_the_model(untrained, pictures_and_questions):
    """With visual tokens mixed in, the logits differ; afterwards they are the same as before."""
    model, processor = untrained
    pictures, questions = pictures_and_questions
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


def test_lessons_are_balanced_and_reproducible_by_seed():
    """Each true caption comes with a false one; describing has the same number of captions for each picture."""
    lesson = judge(random.Random(3), pictures=6, pairs=4, mix=Mix(0.5, 0.2, ("place", "shape")))
    assert lesson.answers == ["True", "False"] * 24
    assert len(lesson.questions) == 48
    assert (
        lesson.questions
        == judge(random.Random(3), pictures=6, pairs=4, mix=Mix(0.5, 0.2, ("place", "shape"))).questions
    )
    descriptions = describe(random.Random(3), pictures=4, each=2)
    assert len(descriptions.pictures) == 4
    assert len(descriptions.answers) == len(descriptions.questions) == 8
