"""What ``retllm bench fine`` compares the scorer with, on the same weights, pairs and questions.

The limit is the model's bare forward pass on inputs that are ready on its device. The rival is what people would use
instead: the cross-encoder of sentence-transformers, which reads the difference of the logits of two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from retllm.fine import Content, Scorer
from retllm.fine.batching import Layout, Pair, collate, kind_of, pack
from retllm.fine.hooks import hooked
from retllm.fine.injection import LayerPlan
from retllm.fine.labels import both_labels

Run = Callable[[], list[float]]
"""Returns the log-odds of the positive against the negative label, for each pair in its order."""
_TEXT = "text of the benchmark"
_NO_INJECTION = LayerPlan(range(0), None)


def forward_alone(scorer: Scorer, query: Content, candidates: Sequence[Content]) -> Run:
    """Prepare pairs in the scorer's batches on its device; return their forward passes and nothing else.

    There is no re-injection, and nothing is shared between pairs.
    """
    loaded = scorer.loaded
    scorer.forget()
    with loaded.preparer.pictures_once():
        pairs = [
            loaded.preparer.pair(index, scorer.prompts.message("true_false", query, candidate))
            for index, candidate in enumerate(candidates)
        ]
    batches = [(group, *_on_device(scorer, group)) for group in pack(pairs, scorer.token_budget, kind_of)]
    positive, negative = _labels(scorer)

    def run() -> list[float]:
        found: dict[int, float] = {}
        for group, layout, inputs in batches:
            with torch.inference_mode(), hooked(loaded.decoder, layout, None, _NO_INJECTION, {}):
                logits = loaded.module(**inputs).logits[:, -1]
            odds = (logits[:, positive] - logits[:, negative]).tolist()
            found |= {pair.index: value for pair, value in zip(group, odds, strict=True)}
        return [found[index] for index in range(len(candidates))]

    return run


def _on_device(scorer: Scorer, group: Sequence[Pair]) -> tuple[Layout, dict[str, torch.Tensor]]:
    loaded = scorer.loaded
    batch = collate(group, pad_token=loaded.preparer.pad_token, image_token=loaded.image_token)
    device, dtype = loaded.module.device, loaded.module.dtype
    return batch.layout.to(device), {
        key: value.to(device, dtype if value.is_floating_point() else None) for key, value in batch.inputs.items()
    }


def _labels(scorer: Scorer) -> tuple[int, int]:
    """Return the token of the first spelling of each label."""
    positive, negative = both_labels(scorer.loaded.preparer, scorer.prompts, "true_false")
    return positive[0], negative[0]


class CrossEncoder:
    """The multimodal cross-encoder of sentence-transformers (the extra ``sentence``) with a scorer's weights.

    Args:
        scorer: its model is shared; the weights are in memory twice only while this is made.
    """

    def __init__(self, scorer: Scorer) -> None:
        from sentence_transformers import CrossEncoder as Encoder
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.cross_encoder.modules import LogitScore

        loaded, (positive, negative) = scorer.loaded, _labels(scorer)
        folder = str(loaded.source.folder or loaded.source.model)
        pinned = {"revision": loaded.revision} if loaded.source.folder is None else {}
        self._scorer = scorer
        self._body: Any = Transformer(
            folder,
            transformer_task="any-to-any",
            model_kwargs={"dtype": loaded.module.dtype, **pinned},
            processor_kwargs=pinned,
            config_kwargs=pinned,
        )
        self._body.model = loaded.module
        self._encoder: Any = Encoder(
            modules=[self._body, LogitScore(positive, negative)], device=str(loaded.module.device)
        )

    def scored(self, query: Content, candidates: Sequence[Content]) -> list[float]:
        """Return the log-odds of all pairs, asked in the scorer's words."""
        self._body.processor.chat_template = _template(self._scorer, query, candidates[0])
        pairs = [(_plain(query), _plain(candidate)) for candidate in candidates]
        odds: list[float] = self._encoder.predict(
            pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
        ).tolist()
        return odds


def _plain(content: Content) -> str | Image.Image:
    if content.picture is not None:
        return content.picture.rgb()
    return content.text or ""


def _template(scorer: Scorer, query: Content, candidate: Content) -> str:
    """Return a chat template that renders the scorer's question about a pair of these modalities."""

    def example(content: Content) -> Content:
        return Content(text=_TEXT) if content.text is not None else content

    message = scorer.prompts.message("true_false", example(query), example(candidate))
    before, after = scorer.loaded.preparer.render(message).split(_TEXT)
    textual, other = ("query", "document") if query.text is not None else ("document", "query")
    # sentence-transformers tries the template with two texts and demands to see both
    tried = f"{{% if {_content(other)}.type == 'text' %}}{{{{ {_content(other)}.text }}}}{{% endif %}}"
    return f"{_raw(before)}{{{{ {_content(textual)}.text }}}}{tried}{_raw(after)}"


def _content(role: str) -> str:
    return f"(messages | selectattr('role', 'eq', '{role}') | first).content[0]"


def _raw(text: str) -> str:
    return f"{{% raw %}}{text}{{% endraw %}}"
