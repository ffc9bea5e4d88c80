"""WiSE-FT: between the pre-trained and the fine-tuned weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.options.types import Real, option
from basicsr.strategies.average import Average
from basicsr.strategies.strategy import Setting, Strategy
from basicsr.utils.registry import STRATEGY_REGISTRY


@STRATEGY_REGISTRY.register()
class WiseFT(Average):
    """Interpolates the pre-trained and the fine-tuned weights (Wortsman et al., CVPR 2022, eq. 1).

    The fine-tuned weights are those that `inner` publishes: of LDT the composite, of SWAD the average. A head that is
    new, and has no pre-trained weights, is published as it was fine-tuned.

    Args:
        inner: What trains, before its first step.
        setting: See `Setting`; reads `train.wise_ft`, the share of the fine-tuned weights, from 0 to 1.

    Raises:
        ValueError: The run begins without pre-trained weights.
    """

    name = 'wise_ft'
    keys = {
        'wise_ft': (
            Real(least=0, most=1),
            option(None, "WiSE-FT: test (1 - wise_ft) * pre-trained + wise_ft * fine-tuned weights, LDT's too."),
        )
    }
    outermost = True

    def __init__(self, inner: Strategy, setting: Setting) -> None:
        super().__init__(inner, setting)
        if not setting.pretrained:
            raise ValueError(f'path.pretrain_network_g: missing; {self._NEEDED}')
        self.alpha = setting.options['wise_ft']
        self._new = [name in setting.new_layers for name, _ in inner.network.named_parameters()]
        self._keep_pretrained()

    def _keep_pretrained(self) -> None:
        self._pretrained = [weight.detach().clone() for weight in self.inner.network.parameters()]

    def prepare(self, loss: Callable[[nn.Module, Any], Tensor], batches: Any) -> None:
        super().prepare(loss, batches)
        self._keep_pretrained()  # with the head that a warm-up has trained, in place of one at random

    _NEEDED = 'train.wise_ft interpolates between these weights and the fine-tuned ones'

    @classmethod
    def needs(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not (opt.get('path') or {}).get('pretrain_network_g') and 'pretrained' not in (opt.get('network_g') or {}):
            yield 'path.pretrain_network_g', cls._NEEDED

    @classmethod
    def without_effect(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        network = opt.get('network_g') or {}
        if not (opt.get('path') or {}).get('pretrain_network_g') and not network.get('pretrained', True):
            yield 'train.wise_ft', 'interpolates with weights at random: network_g.pretrained is false'

    @torch.no_grad()
    def weights(self, published: list[Tensor]) -> list[Tensor]:
        """(1 - alpha) * pretrained + alpha * published."""
        mixed = torch._foreach_lerp(self._pretrained, published, self.alpha)
        return [own if new else value for own, value, new in zip(published, mixed, self._new, strict=True)]

    def averages(self) -> dict[str, Any]:
        return {'pretrained': self._pretrained}

    def load_averages(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._pretrained = [weight.to(device) for weight in state['pretrained']]
