"""A loss that compares pictures by their features in a VGG network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from basicsr.archs.vgg_arch import VGGFeatureExtractor, VGGType, check_layers, weights_file
from basicsr.options.bounds import NonNegative
from basicsr.utils.registry import LOSS_REGISTRY

CRITERIA = {'l1': nn.L1Loss, 'l2': nn.MSELoss, 'fro': None}


@LOSS_REGISTRY.register()
class PerceptualLoss(nn.Module):
    """Differences between features (perceptual loss) and between their Gram matrices (style loss).

    Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016.

    Args:
        layer_weights: Weight of each layer, for example {conv5_4: 1.0}; for the names see `VGGFeatureExtractor`.
        vgg_type: vgg11, vgg13, vgg16 or vgg19, or one of these with _bn.
        use_input_norm: Normalise the channels with ImageNet's means and deviations, for pictures in [0, 1].
        range_norm: Bring pictures from [-1, 1] to [0, 1] first.
        perceptual_weight: Factor of the perceptual loss; 0 disables it.
        style_weight: Factor of the style loss; 0 disables it.
        criterion: l1, l2 (mean squared error) or fro (Frobenius norm of the difference).

    Raises:
        FileNotFoundError: The weights of VGG are not on this machine and cannot be downloaded.
        ValueError: A layer, network or criterion is unknown.
    """

    @staticmethod
    def check_options(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Find unknown layers and unavailable weights before a run."""
        vgg_type = given.get('vgg_type', 'vgg19')
        try:
            check_layers(given.get('layer_weights', {'conv1_1': 1}), vgg_type)
            weights_file(vgg_type)
        except FileNotFoundError as error:
            yield 'vgg_type', str(error)
        except ValueError as error:
            yield 'layer_weights', str(error)

    def __init__(
        self,
        layer_weights: dict[str, NonNegative],
        vgg_type: VGGType = 'vgg19',
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: NonNegative = 1.0,
        style_weight: NonNegative = 0.0,
        criterion: Literal['l1', 'l2', 'fro'] = 'l1',
    ) -> None:
        super().__init__()
        if criterion not in CRITERIA:
            raise ValueError(f'unknown criterion {criterion!r}; choose one of {", ".join(CRITERIA)}')
        self.layer_weights = layer_weights
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion_type = criterion
        self.criterion = CRITERIA[criterion] and CRITERIA[criterion]()
        self.vgg = VGGFeatureExtractor(list(layer_weights), vgg_type, use_input_norm, range_norm)

    def forward(self, x: Tensor, gt: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the perceptual and the style loss; None for one whose weight is 0.

        Args:
            x: (n, 3, h, w), RGB in [0, 1], or in [-1, 1] with `range_norm`.
            gt: As `x`; no gradients flow to it.
        """
        features, targets = self.vgg(x), self.vgg(gt.detach())
        percep_loss = style_loss = None
        if self.perceptual_weight > 0:
            percep_loss = self.perceptual_weight * sum(
                weight * self._distance(features[layer], targets[layer]) for layer, weight in self.layer_weights.items()
            )
        if self.style_weight > 0:
            style_loss = self.style_weight * sum(
                weight * self._distance(gram_matrix(features[layer]), gram_matrix(targets[layer]))
                for layer, weight in self.layer_weights.items()
            )
        return percep_loss, style_loss

    def _distance(self, features: Tensor, targets: Tensor) -> Tensor:
        if self.criterion is None:
            return torch.linalg.vector_norm(features - targets)
        return self.criterion(features, targets)


def gram_matrix(features: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, c): inner products of channels, divided by c h w (equation 3 of the paper)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / features[0].numel()
