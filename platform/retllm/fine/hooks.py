"""Visual re-injection by hooks: no part of the model is replaced, and all hooks are removed after the pass.

Method sections 3 and 4; RetLLM (arXiv 2602.22278) section 2.2; MemVR (arXiv 2410.03577) for trigger and scaling.
Nothing here waits for a device: tensors, not branches, select the layer of each sample. Only a CPU, which never makes
anyone wait, is asked whether a layer has anything to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retllm.errors import ModelUnsuited
from retllm.fine.batching import Layout
from retllm.fine.feedforward import FeedForward
from retllm.fine.injection import Injection, LayerPlan
from retllm.fine.trigger import early_uncertainty

NEVER = -1
"""The number for "no layer"."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """The parts of a model that the hooks are registered on.

    Attributes:
        trunk: the text decoder; called with ``inputs_embeds``.
        layers: its layers, in order.
        head: the output projection, given (b, s, d).
        read: maps hidden states (b, 1, d) after any layer to logits (b, vocabulary): norm, then head, unhooked.
    """

    trunk: nn.Module
    layers: nn.ModuleList
    head: nn.Module
    read: Callable[[Tensor], Tensor]


class Reinjection:
    """The state of one forward pass: the visual tokens, and the injected layer of each sample.

    After the pass, ``armed`` (b,) is the injected layer or :data:`NEVER`, and ``uncertainty`` (b,) is the reading that
    armed it, or NaN.
    """

    def __init__(self, settings: Injection, plan: LayerPlan, layout: Layout) -> None:
        self._settings = settings
        self._plan = plan
        self._layout = layout
        self._visual: Tensor | None = None
        self._visual_size: Tensor | None = None
        batch = layout.last.shape[0]
        device = layout.last.device
        self._has_visual = layout.visual_real.any(dim=1)
        self._skips = device.type == "cpu"
        self.armed = torch.full((batch,), NEVER, device=device)
        self.uncertainty = torch.full((batch,), torch.nan, device=device)
        if plan.fixed is not None:
            self.armed = torch.where(self._has_visual, plan.fixed, self.armed)
        scope = layout.real if settings.scope == "all" else layout.suffix
        self._scope = scope.unsqueeze(-1)

    def keep_visual(self, embeddings: Tensor) -> None:
        """Set Z, the projected visual tokens, from the decoder's input ``embeddings`` (b, s, d).

        With two pictures in one sample, Z has the tokens of both.
        """
        index = self._layout.visual.unsqueeze(-1).expand(-1, -1, embeddings.shape[-1])
        self.set_visual(embeddings.gather(1, index))

    def set_visual(self, visual: Tensor) -> None:
        """Set Z, (b, N, d); rows that the layout does not mark as real are ignored."""
        real = self._layout.visual_real.unsqueeze(-1)
        self._visual = visual.masked_fill(~real, 0)
        self._visual_size = _mean_size(self._visual, real)

    @property
    def visual_is_set(self) -> bool:
        """Whether Z is set."""
        return self._visual is not None

    def needs_reading(self) -> bool:
        """Return whether a reading can still arm a sample; on a GPU always true."""
        return not self._skips or bool((self._has_visual & (self.armed == NEVER)).any())

    def needs_mixing(self, layer: int) -> bool:
        """Return whether a sample is armed for the layer; on a GPU always true."""
        return not self._skips or bool((self.armed == layer).any())

    def observe(self, layer: int, logits: Tensor) -> None:
        """Arm ``layer + 1`` for the samples whose early logits (b, vocabulary) are uncertain for the first time."""
        reading = early_uncertainty(logits)
        triggered = (reading > self._settings.tau) & (self.armed == NEVER) & self._has_visual
        self.armed = torch.where(triggered, layer + 1, self.armed)
        self.uncertainty = torch.where(triggered, reading, self.uncertainty)

    def mix(self, layer: int, feed_forward: FeedForward, x: Tensor, plain: Tensor) -> Tensor:
        """Return ``(1 - alpha) FFN(x) + alpha delta^(x)`` for the armed samples, ``plain`` for the others.

        Args:
            layer: the layer number.
            feed_forward: its feed-forward network.
            x, plain: its input and output, (b, s, d).
        """
        here = (self.armed == layer)[:, None, None] & self._scope
        delta = self._delta(feed_forward, x)
        if self._settings.scaling:
            size = _mean_size(plain, self._scope) / _mean_size(delta, self._scope).clamp_min(_TINY)
            delta = delta * size
        alpha = self._settings.alpha
        mixed = (1 - alpha) * plain.float() + alpha * delta.float()
        return torch.where(here, mixed.to(plain.dtype), plain)

    def _delta(self, feed_forward: FeedForward, x: Tensor) -> Tensor:
        """Return ``phi(x K^T) V`` (b, s, d), with K = V = Z or their scaled forms."""
        # padding rows of the values are zero, so their weights have no effect
        return torch.bmm(self.weights(feed_forward, x), self._sized(feed_forward.down, x.dtype))

    def weights(self, feed_forward: FeedForward, x: Tensor) -> Tensor:
        """Return ``phi(x K^T)`` (b, s, N): the weight of each visual token at each of the positions x (b, s, d)."""
        keys = self._sized(feed_forward.key_size(self._settings.key_weight), x.dtype)
        return feed_forward.activation(torch.bmm(x, keys.transpose(1, 2)))

    def _sized(self, size: Tensor, dtype: torch.dtype) -> Tensor:
        """Return Z (b, N, d), scaled to the mean size of a projection's weights if ``scaling`` is set."""
        assert self._visual is not None
        assert self._visual_size is not None
        visual = self._visual.to(dtype)
        if not self._settings.scaling:
            return visual
        return (visual * (size / self._visual_size.clamp_min(_TINY))).to(dtype)


_TINY = 1e-30


def _mean_size(values: Tensor, where: Tensor) -> Tensor:
    """Return the mean of |values| (b, s, d) over the positions marked in ``where`` (b, s, 1): (b, 1, 1), float32."""
    per_position = values.abs().sum(dim=-1, keepdim=True, dtype=torch.float32)
    total = per_position.masked_fill(~where, 0).sum(dim=1, keepdim=True)
    count = where.sum(dim=1, keepdim=True).clamp_min(1) * values.shape[-1]
    return total / count


@contextmanager
def hooked(
    decoder: Decoder,
    layout: Layout,
    reinjection: Reinjection | None,
    plan: LayerPlan,
    feed_forwards: Mapping[int, FeedForward],
) -> Iterator[None]:
    """Register the hooks of one forward pass; remove them afterwards, also after an error.

    The head is always hooked: it gets only the last position of each sample and returns float32. Without
    ``reinjection`` there are no other hooks, and the plain model runs.
    """
    with ExitStack() as stack:

        def on_exit(handle: torch.utils.hooks.RemovableHandle) -> None:
            stack.callback(handle.remove)

        on_exit(decoder.head.register_forward_pre_hook(_last_position_only(layout)))
        on_exit(decoder.head.register_forward_hook(_in_float32))
        if reinjection is not None and plan.injectable:
            if not reinjection.visual_is_set:
                keep = keep_visual(reinjection)
                on_exit(decoder.trunk.register_forward_pre_hook(keep, with_kwargs=True))
            for number in plan.watched:
                watch = _watch(reinjection, number, decoder, layout)
                on_exit(decoder.layers[number].register_forward_hook(watch))
            for number in plan.injectable:
                inject = _inject(reinjection, number, feed_forwards[number])
                on_exit(feed_forwards[number].module.register_forward_hook(inject))
        yield


def last_of(hidden: Tensor, layout: Layout) -> Tensor:
    """Select the last real position of each sample: (b, s, d) to (b, 1, d)."""
    index = layout.last[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index)


def _last_position_only(layout: Layout) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (last_of(args[0], layout), *args[1:])

    return cut


_ROWS_AT_ONCE = 16_384


def _in_float32(head: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Compute the head's logits again in float32: bfloat16 logits have steps of 1/16 or more and cause false ties."""
    if output.dtype == torch.float32 or type(head) is not nn.Linear:
        return output.float()
    hidden = args[0].float()
    # a float32 copy of the whole matrix would take gigabytes
    parts = [hidden @ rows.float().T for rows in torch.split(head.weight, _ROWS_AT_ONCE)]
    logits = torch.cat(parts, dim=-1)
    return logits if head.bias is None else logits + head.bias.float()


def keep_visual(
    reinjection: Reinjection,
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """Return a decoder pre-hook that passes the decoder's inputs to ``reinjection``.

    Raises:
        ModelUnsuited: when the decoder runs without embeddings as input.
    """

    def keep(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeddings = kwargs.get("inputs_embeds")
        if not isinstance(embeddings, Tensor):
            raise ModelUnsuited(
                "Visual re-injection can't read this model's visual tokens: its decoder does not get embeddings. "
                'Use another model, or set the trigger to "off".'
            )
        reinjection.keep_visual(embeddings)

    return keep


def _watch(
    reinjection: Reinjection, number: int, decoder: Decoder, layout: Layout
) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def watch(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if not reinjection.needs_reading():
            return
        hidden = output[0] if isinstance(output, tuple) else output
        reinjection.observe(number, decoder.read(last_of(hidden, layout)))

    return watch


def _inject(
    reinjection: Reinjection, number: int, feed_forward: FeedForward
) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
    def inject(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        # None leaves the output as it is
        return reinjection.mix(number, feed_forward, args[0], output) if reinjection.needs_mixing(number) else None

    return inject
