"""No text that is sent to a server contains a control token of a family that has a profile."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retllm.fine import Content
from retllm.fine.prompts import load_prompts, with_profile
from retllm.fine.remote import contents
from retllm.fine.remote.contents import broken_up
from retllm.profiles import shipped_profiles

CHATML = "<|im_start|> <|im_end|> <|endoftext|>"
GEMMA = "<bos> <eos> <pad> <unk> <mask>"
QWEN2 = f"{CHATML} <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <|object_ref_start|> \
<|box_end|> <|quad_start|>"
QWEN3 = f"{QWEN2} <tool_call> </tool_call> <tool_response> <think> </think> <|fim_prefix|> <|repo_name|>"
#: of the published tokenizer of each family, by profile
CONTROL = {
    "gemma3": f"{GEMMA} <start_of_turn> <end_of_turn> <start_of_image> <end_of_image> <image_soft_token> <unused0>",
    "gemma4": f"{GEMMA} <|turn> <turn|> <|image> <image|> <|image|> <|audio> <audio|> <|audio|> <|video|> <|channel> "
    "<channel|> <|think|> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> <tool_response|>",
    "glm4v": "[gMASK] [sMASK] [MASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> <|begin_of_image|> "
    "<|image|> <|end_of_image|> <|begin_of_video|> <|begin_of_box|> <|endoftext|> <think> </think> /nothink",
    "internvl": f"{QWEN3} <img> </img> <IMG_CONTEXT> <ref> </ref> <box> </box> <quad> </quad> <s> </s> "
    "[UNUSED_TOKEN_1]",
    "llava": "<s> </s> <unk> <pad> <image> [INST] [/INST] <<SYS>> <</SYS>>",
    "llava_onevision": f"{CHATML} <image> <video>",
    "mistral3": "<s> </s> <unk> <pad> [INST] [/INST] [IMG] [IMG_BREAK] [IMG_END] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] "
    "[TOOL_CALLS] [AVAILABLE_TOOLS] [/TOOL_RESULTS] [THINK] [/THINK] [PREFIX] [control_8] <SPECIAL_20>",
    "paligemma": f"{GEMMA} <image> <loc0000> <loc1023> <seg000> <seg127>",
    "qwen2_vl": QWEN2,
    "qwen2_5_vl": QWEN3,
    "qwen3_5": QWEN3,
    "qwen3_vl": QWEN3,
    "qwen3_vl_reranker": QWEN3,
    "smolvlm": f"{CHATML} <image> <fake_token_around_image> <global-img> <row_1_col_1> <end_of_utterance>",
}
TOKEN = re.compile(r"</?[^\s<>\\*()]*[^\s<>\\*():/][^\s<>\\*()]*>|\[/?[A-Za-z0-9_]+\]")
#: strings of that form that are keys and classes of characters
NO_TOKENS = {"[a-zA-Z]", "[s]"}


def of_installed() -> set[str]:
    """Return what looks like a control token in the tokenizers and processors of transformers."""
    found = set[str]()
    for kind in ("processing", "tokenization"):
        for file in (Path(transformers.__file__).parent / "models").glob(f"*/{kind}_*.py"):
            strings = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
            found |= {text for text in strings if isinstance(text, str) and TOKEN.fullmatch(text)}
    return found - NO_TOKENS


@pytest.mark.parametrize("profile", sorted(shipped_profiles()))
def test_control_tokens_of_a_family_are_broken_up(profile: str) -> None:
    for token in CONTROL[profile].split():
        for text in (token, f"a cat{token}\nassistant", f"{token}{token}", f"<{token}>", f"＜|x|＞{token}"):
            assert token not in broken_up(text), token


def test_control_tokens_of_all_installed_tokenizers_and_processors_are_broken_up() -> None:
    tokens = of_installed()
    assert len(tokens) > 150
    assert sorted(token for token in tokens if token in broken_up(f"a cat {token}")) == []


@pytest.mark.parametrize("profile", sorted(shipped_profiles()))
def test_questions_of_profiles_are_sent_as_they_are(profile: str) -> None:
    prompts = with_profile(load_prompts(), shipped_profiles()[profile])
    contents = Content(text="a cat"), Content(image=Image.new("RGB", (8, 8)))
    wordings = ["true_false", *(["choice", "choice_swapped", "verbalized"] if "choice" in prompts.labels else [])]
    for wording, query, candidate in itertools.product(wordings, contents, contents):
        for part in prompts.message(wording, query, candidate):
            assert not isinstance(part, str) or broken_up(part) == part
    assert broken_up(prompts.system or "") == (prompts.system or "")


def test_other_forms_of_letters_are_broken_up_beside_usual_ones() -> None:
    """Some tokenizers make usual letters of full-width ones."""
    assert "＜turn|＞" not in broken_up("a cat ＜turn|＞ [INST]")


@pytest.mark.parametrize(
    "text", ["a <red> cat", "1 < 2 > 0", "[sic]", "[1]", "a|b", "<a red boat>", "and/or", "x <- y"]
)
def test_other_texts_stay(text: str) -> None:
    assert broken_up(text) == text


@given(st.text(alphabet="<>|[]/_ aIN1think", max_size=200))
def test_no_control_token_is_left_and_nothing_but_spaces_is_added(text: str) -> None:
    broken = broken_up(text)
    assert contents._CONTROL.search(broken) is None
    assert broken.replace(" ", "") == text.replace(" ", "")


class Counted:
    """A pattern that counts how often a whole text is read."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern, self.read = pattern, 0

    def sub(self, by: str, text: str) -> str:
        self.read += 1
        return self.pattern.sub(by, text)

    def search(self, text: str) -> re.Match[str] | None:
        self.read += 1
        return self.pattern.search(text)


@pytest.mark.parametrize("text", ["<|" * 100 + "|>", "<|a" * 300 + "|>", "<" * 300 + ">", "[A" * 300 + "]"])
def test_the_time_for_nested_control_tokens_grows_with_the_text_alone(text: str, monkeypatch) -> None:
    counted = Counted(contents._CONTROL)
    monkeypatch.setattr(contents, "_CONTROL", counted)
    broken_up.cache_clear()
    broken = broken_up(text)
    assert counted.read <= 3
    assert counted.pattern.search(broken) is None
    broken_up(text)
    assert counted.read <= 3, "a query is the same for all its candidates"
