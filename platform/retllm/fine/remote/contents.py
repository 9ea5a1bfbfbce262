"""Contents as a server takes them: pictures as data URLs within the picture budget, texts without control tokens."""

from __future__ import annotations

import base64
import io
import math
import re
import unicodedata
from functools import lru_cache
from typing import Any

from PIL import Image

from retllm.errors import InvalidInput
from retllm.fine.content import Content, Picture
from retllm.fine.prompts import Part

PIXELS_OF_TOKEN = 28 * 28
"""Pixels of one visual token of Qwen2-VL, which bound the size of a picture; tokens of later models show more."""

#: small pictures, such as drawings, are sent without loss
_LOSSLESS_PIXELS = 512 * 512
_QUALITY = 95

#: names of control tokens that are plain words; what else stands between < and > may be a text's own
_NAMES = (
    "audio|blank|bos|box|chunk|cls|d|doc|ent|eod|eop|eos|eoss|eot|ground|grounding|image|img|imgpad|line|mask|n|obj|object"
    "|pad|phrase|placeholder|point|poly|quad|ref|s|sep|sop|sos|sound|think|unk|video|w"
)
#: the first character of the usual kinds of control tokens; the tokenizer of the model is not known here. The rest is
#: only looked at, so that each one is found in a single pass, also within others
_CONTROL = re.compile(
    r"<(?=[|｜][^>]{0,64}[|｜]>"
    # anything without a space but a plain word: <|turn>, </s>, <end_of_turn>, <loc0001>, <IMG>
    r"|(?![^\W\d_][^\W\d_A-Z]*>)[^\s<>]{1,64}>"
    rf"|(?i:{_NAMES})>)"
    # [INST], [/INST], [gMASK], [control_8]
    r"|\[(?=/?[A-Za-z]?[A-Z][A-Z0-9_]*\]|/?[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+\])"
    r"|/(?=(?i:no_?think))"
)


def data_url(picture: Picture, picture_tokens: int) -> str:
    """Return a picture as a data URL with at most ``picture_tokens`` times :data:`PIXELS_OF_TOKEN` pixels.

    Raises:
        InvalidInput: it can't be opened. RetllmError: what opening it raises.
    """
    try:
        image = _fitted(picture.rgb(), picture_tokens * PIXELS_OF_TOKEN)
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInput(f"The picture can't be opened: {error}.", field="candidates") from error
    stream = io.BytesIO()
    if image.width * image.height <= _LOSSLESS_PIXELS:
        image.save(stream, "PNG", compress_level=1)
        kind = "png"
    else:
        image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _fitted(image: Image.Image, pixels: int) -> Image.Image:
    scale = math.sqrt(pixels / (image.width * image.height))
    if scale >= 1:
        return image
    # the short side of a strip is 1, which is more than its share
    width, height = (min(max(1, math.floor(side * scale)), pixels) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def text_part(text: str) -> dict[str, Any]:
    """Return a text as a part of a message, its control tokens broken up."""
    return {"type": "text", "text": broken_up(text)}


def picture_part(url: str) -> dict[str, Any]:
    """Return a picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": url}}


def parts_of(message: list[Part], urls: dict[str, str]) -> list[dict[str, Any]]:
    """Return a message as the parts of a chat completion; ``urls`` has the data URL of each picture by its key."""
    return [text_part(part) if isinstance(part, str) else picture_part(urls[part.key]) for part in message]


def document_of(content: Content, urls: dict[str, str]) -> str | dict[str, Any]:
    """Return a content as the query or a document of a reranker; ``urls`` as for :func:`parts_of`."""
    if content.picture is None:
        return broken_up(content.text or "")
    parts = [picture_part(urls[content.picture.key])]
    return {"content": parts + ([text_part(content.text)] if content.text else [])}


# the text of a query is asked about with each of its candidates
@lru_cache(maxsize=16)
def broken_up(text: str) -> str:
    """Break up what may be a control token, so that no caption can end the turn or ask for a picture."""
    plain = _broken(text)
    # some tokenizers make plain letters of others
    normal = unicodedata.normalize("NFKC", plain)
    return _broken(normal) if _CONTROL.search(normal) else plain


def _broken(text: str) -> str:
    return _CONTROL.sub(r"\g<0> ", text)
