"""Every pair of modalities has a prompt with each text and picture in the right position."""

from __future__ import annotations

from itertools import product

import pytest
from PIL import Image

from retllm.errors import InvalidInput
from retllm.fine import Content, load_prompts
from retllm.fine.prompts import Part, Wording

QUERY, CANDIDATE = Image.new("RGB", (2, 2)), Image.new("RGB", (3, 3))
KINDS = ("image", "text", "image+text")


def content(kind: str, image: Image.Image, text: str) -> Content:
    return Content(image=image if "image" in kind else None, text=text if "text" in kind else None)


def as_pixels(message: list[Part]) -> list[str | Image.Image]:
    return [part if isinstance(part, str) else part.rgb() for part in message]


TRUE_FALSE = {
    ("text", "image"): [CANDIDATE, "Does the image match the caption: <Q>? "],
    ("image", "text"): [QUERY, "Does the image match the caption: <C>? "],
    ("text", "text"): ["Do the two texts describe the same thing? Query text: <Q> Candidate text: <C>. "],
    ("image", "image"): [
        "Query image:", QUERY, "Candidate image:", CANDIDATE,
        "Does the candidate image show the same thing as the query image? ",
    ],
    ("image+text", "image"): [
        "Query image:", QUERY, "Candidate image:", CANDIDATE,
        "Does the candidate image match the query text: <Q> and the query image? ",
    ],
    ("image+text", "text"): [QUERY, "Does the candidate text: <C> match the image and the query text: <Q>? "],
    ("text", "image+text"): [CANDIDATE, "Does the image with its caption: <C> match the query text: <Q>? "],
    ("image", "image+text"): [
        "Query image:", QUERY, "Candidate image:", CANDIDATE,
        "Does the candidate image with its caption: <C> match the query image? ",
    ],
    ("image+text", "image+text"): [
        "Query image:", QUERY, "Candidate image:", CANDIDATE,
        "Does the candidate image with its caption: <C> match the query image and the query text: <Q>? ",
    ],
}  # fmt: skip
ASKS: dict[Wording, str] = {
    "true_false": "Please directly output True or False",
    "verbalized": 'Please output the relevance score from 0 to 1 in a format of "Answer: score". '
    "Keep four decimal places",
    "choice": "A: they match. B: they do not match. Please directly output A or B",
    "choice_swapped": "A: they do not match. B: they match. Please directly output A or B",
}


@pytest.mark.parametrize("wording", ASKS)
@pytest.mark.parametrize(("query", "candidate"), list(product(KINDS, KINDS)))
def test_every_prompt_has_exactly_this_wording(query: str, candidate: str, wording: Wording) -> None:
    """The demo models are trained on these words, and scores are stored with the version: a change needs a new one."""
    sides = content(query, QUERY, "Q"), content(candidate, CANDIDATE, "C")
    *before, question = TRUE_FALSE[query, candidate]
    assert isinstance(question, str)
    assert as_pixels(load_prompts().message(wording, *sides)) == [*before, question + ASKS[wording]]
    assert load_prompts().version == "2"


@pytest.mark.parametrize("wording", ASKS)
@pytest.mark.parametrize(("query", "candidate"), list(product(KINDS, KINDS)))
def test_every_prompt_contains_each_picture_and_text_once(query: str, candidate: str, wording: Wording) -> None:
    sides = content(query, QUERY, "QUERY WORDS"), content(candidate, CANDIDATE, "CANDIDATE WORDS")
    message = as_pixels(load_prompts().message(wording, *sides))
    pictures = [part for part in message if not isinstance(part, str)]
    words = " ".join(part for part in message if isinstance(part, str))
    assert pictures == [image for image, kind in ((QUERY, query), (CANDIDATE, candidate)) if "image" in kind]
    assert words.count("QUERY WORDS") == ("text" in query)
    assert words.count("CANDIDATE WORDS") == ("text" in candidate)
    assert words.count("Please") == 1
    assert "{" not in words
    assert "@" not in words


def test_placeholders_in_a_text_are_not_replaced() -> None:
    sides = Content(text="{candidate} {ask} {0} %s {"), Content(text="{query}")
    [words] = load_prompts().message("true_false", *sides)
    assert isinstance(words, str)
    assert "Query text: <{candidate} {ask} {0} %s {> Candidate text: <{query}>. Please" in words


def test_empty_content_is_refused() -> None:
    for empty in ({}, {"text": ""}, {"text": " \n"}, {"image": QUERY, "text": ""}):
        with pytest.raises(InvalidInput):
            Content(**empty)


def test_the_modality_of_each_kind_of_content() -> None:
    assert [content(kind, QUERY, "x").modality for kind in KINDS] == list(KINDS)
