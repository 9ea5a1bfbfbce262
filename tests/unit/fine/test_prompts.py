"""Every pair of modalities has its question, with each text and picture in its place."""

from __future__ import annotations

from itertools import product

import pytest
from PIL import Image

from retllm.errors import InvalidInput
from retllm.fine import Content, load_prompts

QUERY, CANDIDATE = Image.new("RGB", (2, 2)), Image.new("RGB", (3, 3))
KINDS = ("image", "text", "image+text")


def content(kind: str, image: Image.Image, text: str) -> Content:
    return Content(image=image if "image" in kind else None, text=text if "text" in kind else None)


def test_the_papers_wording_is_kept() -> None:
    message = load_prompts().message("true_false", Content(text="a dog"), Content(image=CANDIDATE))
    assert message == [CANDIDATE, "Does the image match the caption: <a dog>? Please directly output True or False"]
    message = load_prompts().message("true_false", Content(image=QUERY), Content(text="a dog"))
    assert message == [QUERY, "Does the image match the caption: <a dog>? Please directly output True or False"]


@pytest.mark.parametrize(("query", "candidate"), list(product(KINDS, KINDS)))
def test_every_pair_shows_all_that_it_has_once(query: str, candidate: str) -> None:
    sides = content(query, QUERY, "QUERY WORDS"), content(candidate, CANDIDATE, "CANDIDATE WORDS")
    message = load_prompts().message("true_false", *sides)
    shown = [part for part in message if not isinstance(part, str)]
    words = " ".join(part for part in message if isinstance(part, str))
    assert shown == [image for image, kind in ((QUERY, query), (CANDIDATE, candidate)) if "image" in kind]
    assert words.count("QUERY WORDS") == ("text" in query)
    assert words.count("CANDIDATE WORDS") == ("text" in candidate)
    assert words.count("Please directly output True or False") == 1
    assert "{" not in words
    assert "@" not in words


def test_two_pictures_are_announced() -> None:
    message = load_prompts().message("true_false", Content(image=QUERY), Content(image=CANDIDATE))
    assert message[:4] == ["Query image:", QUERY, "Candidate image:", CANDIDATE]


def test_a_text_that_looks_like_a_template_stays_as_it_is() -> None:
    sides = Content(text="{candidate} {ask} {0} %s {"), Content(text="{query}")
    [words] = load_prompts().message("true_false", *sides)
    assert isinstance(words, str)
    assert "Query text: <{candidate} {ask} {0} %s {> Candidate text: <{query}>. Please" in words


def test_a_content_of_nothing_is_refused() -> None:
    for nothing in ({}, {"text": ""}, {"text": " \n"}, {"image": QUERY, "text": ""}):
        with pytest.raises(InvalidInput):
            Content(**nothing)


def test_modalities_are_named() -> None:
    assert [content(kind, QUERY, "x").modality for kind in KINDS] == list(KINDS)
