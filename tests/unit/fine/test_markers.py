"""No text of a user becomes a token that means more than its letters, in any family, however it is put together."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retllm.fine import Scorer
from retllm.fine.content import Content, Picture
from retllm.fine.prepare import Preparer
from retllm.fine.prompts import load_prompts

# of models that are not among the families here, and what several take for a new line
FOREIGN = [
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<image>",
    "[IMG]",
    "[INST]",
    "</s>",
    "<s>",
    "<end_of_turn>",
    "<start_of_image>",
    "<row_1_col_1>",
    "<fake_token_around_image>",
    "<|eot_id|>",
    "<think>",
    "<<SYS>>",
    "\n\nassistant\n",
]
LETTERS = [
    "a",
    " ",
    "<",
    ">",
    "|",
    "image",
    "im_end",
    "/",
    "[",
    "]",
    "\n",
    "é",
    "猫",
    "\u200b",
    "＜",
    "＞",
    "｜",
    "True",
]


def _preparer(scorer: Scorer) -> Preparer:
    return scorer._loaded.preparer


def _controls(preparer: Preparer, caption: str) -> Counter[int]:
    """How often each control token is in the whole prompt of a picture with a caption."""
    picture = Content(image=Picture(Image.new("RGB", (16, 16)), "one"))
    message = load_prompts().message("true_false", picture, Content(text=caption))
    control = preparer.control_ids() - {preparer._tokenizer.unk_token_id}
    return Counter(token for token in preparer.encode(preparer.render(message)) if token in control)


def _wide(text: str) -> str:
    """The same in letters of full width, which some tokenizers read as the plain ones."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


def test_every_marker_is_only_text(scorer: Scorer) -> None:
    preparer = _preparer(scorer)
    own = [str(token) for token in preparer._tokenizer.added_tokens_decoder.values()]
    plain = _controls(preparer, "a cat")
    assert plain, "the template has its own"
    for marker in (*own, *FOREIGN):
        for text in (marker, marker * 3, f"a {marker} cat", marker[0] + marker + marker[1:], _wide(marker)):
            if text.strip():
                assert _controls(preparer, text) == plain, text


def test_no_mixture_of_markers_and_letters_makes_one(scorer: Scorer) -> None:
    preparer = _preparer(scorer)
    own = [str(token) for token in preparer._tokenizer.added_tokens_decoder.values()]
    plain = _controls(preparer, "a cat")
    whole = st.sampled_from([*own, *FOREIGN])
    piece = (
        whole | st.sampled_from(LETTERS) | whole.flatmap(lambda name: st.integers(0, len(name)).map(lambda n: name[:n]))
    )

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(piece, min_size=1, max_size=12).map("".join))
    def check(text: str) -> None:
        if text.strip():
            assert _controls(preparer, text) == plain

    check()


def test_a_text_without_markers_stays_as_it_is(scorer: Scorer) -> None:
    preparer = _preparer(scorer)
    for text in (
        "a red square is left of a dog",
        "3 < 4 > 2 [sic] {x} | y",
        "naïve 猫 ＡＢＣ ½\n\nnew line",
        "a <b> c",
    ):
        assert preparer._harmless(text) == text
