"""A small convolutional classifier, for small pictures and for a start."""

from __future__ import annotations

from torch import Tensor, nn

from basicsr.options.bounds import Blocks, Channels
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class SmallCNN(nn.Module):
    """Convolutions with batch normalization: (N, in_chans, H, W) -> (N, classes).

    Each stage is twice as wide and half as high as the one before.

    Args:
        num_classes: Outputs.
        in_chans: Channels of the pictures.
        width: Channels of the first stage.
        stages: How many stages; a picture has at least 2 ** (stages - 1) pixels a side.
    """

    head_prefixes = ('head',)
    input_size = None

    def __init__(
        self, num_classes: Channels = 10, in_chans: Channels = 3, width: Channels = 16, stages: Blocks = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in range(stages):
            before, after = (in_chans if stage == 0 else width << (stage - 1)), width << stage
            layers += [
                nn.Conv2d(before, after, 3, stride=2 if stage else 1, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width << (stages - 1), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        if not {'body.0.weight', 'head.weight'} <= weights.keys() or weights['head.weight'].ndim != 2:
            return None
        width, in_chans = weights['body.0.weight'].shape[:2]
        (num_classes, features) = weights['head.weight'].shape
        return {
            'num_classes': num_classes,
            'in_chans': in_chans,
            'width': width,
            'stages': (features // width).bit_length(),
        }

    @staticmethod
    def task(options: dict) -> str:
        return f'{options["num_classes"]} classes'
