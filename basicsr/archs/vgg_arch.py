"""Features of VGG networks trained on ImageNet, for perceptual losses.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015. The weights are
torchvision's; layers and the entries of the state dict have BasicSR's names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from basicsr.options.bounds import Side
from basicsr.runs.checkpoint import differences_to, find_weights, load_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY, did_you_mean

VGGType = Literal['vgg11', 'vgg13', 'vgg16', 'vgg19', 'vgg11_bn', 'vgg13_bn', 'vgg16_bn', 'vgg19_bn']

PRETRAINED = Path('experiments/pretrained_models')
"""Where to look for weights first, in the working directory and then in the project."""

_PROJECT = Path(__file__).parents[2]
_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {'vgg11': (1, 1, 2, 2, 2), 'vgg13': (2, 2, 2, 2, 2), 'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}


def _names(convolutions: Sequence[int]) -> list[str]:
    names = []
    for block, count in enumerate(convolutions, 1):
        names += [f'{kind}{block}_{index}' for index in range(1, count + 1) for kind in ('conv', 'relu')]
        names.append(f'pool{block}')
    return names


NAMES = {vgg_type: _names(convolutions) for vgg_type, convolutions in _CONVOLUTIONS.items()}
"""Layers of each network without batch normalisation, in order: conv1_1, relu1_1, …, pool5."""


def insert_bn(names: Sequence[str]) -> list[str]:
    """Return `names` with a batch normalisation after each convolution: conv1_1, bn1_1, relu1_1, …"""
    with_bn = []
    for name in names:
        with_bn += [name, name.replace('conv', 'bn')] if 'conv' in name else [name]
    return with_bn


def layer_names(vgg_type: str) -> list[str]:
    """The layers of a network, in order.

    Raises:
        ValueError: There is no such network.
    """
    names = NAMES.get(vgg_type.removesuffix('_bn'))
    if names is None:
        known = [*NAMES, *(f'{name}_bn' for name in NAMES)]
        raise ValueError(f'vgg_type {vgg_type!r} is unknown{did_you_mean(vgg_type, known)} Choices: {", ".join(known)}')
    return insert_bn(names) if vgg_type.endswith('_bn') else names


def check_layers(layers: Collection[str], vgg_type: str) -> None:
    """Raise a ValueError unless `layers` are some of the layers of `vgg_type`."""
    names = layer_names(vgg_type)
    if not layers:
        raise ValueError(f'no layer of {vgg_type} is named; name one or more of {", ".join(names)}')
    for layer in layers:
        if layer not in names:
            raise ValueError(
                f'{vgg_type} has no layer {layer!r}{did_you_mean(layer, names)} It has: {", ".join(names)}'
            )


def weights_file(vgg_type: str) -> Path:
    """The file of torchvision's ImageNet weights, downloaded by torchvision if this machine does not have it.

    It is looked up in experiments/pretrained_models and then in torch hub's cache.

    Raises:
        FileNotFoundError: It is not here and cannot be downloaded; the message says where to put it.
    """
    weights = get_model_weights(vgg_type).IMAGENET1K_V1
    name = weights.url.rpartition('/')[2]
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / name
    for path in (PRETRAINED / name, _PROJECT / PRETRAINED / name, cached):
        if path.is_file():
            return path
    try:
        weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no connection, a full disk, a file with the wrong hash
        raise FileNotFoundError(
            f'{vgg_type} needs {name}, which is not on this machine and cannot be fetched ({error}). Download '
            f'{weights.url} where there is a connection, and put it into {_PROJECT / PRETRAINED}'
        ) from error
    return cached


@ARCH_REGISTRY.register()
class VGGFeatureExtractor(nn.Module):
    """Outputs of some layers of a VGG network: (n, 3, h, w), RGB -> {layer: (n, c, h', w')}, in the network's order.

    Args:
        layer_name_list: Layers whose outputs are wanted: conv1_1, relu1_1, …, pool5; of a network with batch
            normalisation bn1_1, … too. Layers after the last of them are not built.
        vgg_type: vgg11, vgg13, vgg16 or vgg19, or one of these with _bn.
        use_input_norm: Normalise the channels with ImageNet's means and deviations, for pictures in [0, 1].
        range_norm: Bring pictures from [-1, 1] to [0, 1] first.
        requires_grad: Train the weights. Otherwise batch statistics are frozen as well.
        remove_pooling: Leave the pooling layers out.
        pooling_stride: Stride of the pooling layers, whose windows are 2 wide.

    Raises:
        FileNotFoundError: The weights are not on this machine and cannot be downloaded.
        ValueError: A network or layer is unknown, or the file does not hold the weights.
    """

    def __init__(
        self,
        layer_name_list: Sequence[str],
        vgg_type: VGGType = 'vgg19',
        use_input_norm: bool = True,
        range_norm: bool = False,
        requires_grad: bool = False,
        remove_pooling: bool = False,
        pooling_stride: Side = 2,
    ) -> None:
        super().__init__()
        check_layers(layer_name_list, vgg_type)
        pooling = [name for name in layer_name_list if name.startswith('pool')]
        if remove_pooling and pooling:
            raise ValueError(f'remove_pooling leaves no layer {pooling[0]} whose output could be taken')
        self.layer_name_list = list(layer_name_list)
        self.use_input_norm = use_input_norm
        self.range_norm = range_norm
        self.requires_grad = requires_grad
        self.names = layer_names(vgg_type)
        self.vgg_net = _pretrained(vgg_type, 1 + max(self.names.index(name) for name in layer_name_list))
        for name, layer in list(self.vgg_net.named_children()):
            if isinstance(layer, nn.MaxPool2d):
                layer.stride = pooling_stride
                if remove_pooling:
                    delattr(self.vgg_net, name)
        self.vgg_net.requires_grad_(requires_grad).train(requires_grad)
        if use_input_norm:
            self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
            self.register_buffer('std', torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> VGGFeatureExtractor:
        """As for any module, but frozen weights keep their batch statistics."""
        super().train(mode)
        self.vgg_net.train(mode and self.requires_grad)
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.range_norm:
            x = (x + 1) / 2
        if self.use_input_norm:
            x = (x - self.mean) / self.std
        features = {}
        for name, layer in self.vgg_net.named_children():
            x = layer(x)
            if name in self.layer_name_list:
                features[name] = x
        return features


def _layers(names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    channels = 3
    for name in names:
        kind, block = name.rstrip('_0123456789'), int(name.partition('_')[0][-1])
        width = _WIDTHS[block - 1]
        if kind == 'conv':
            yield name, nn.Conv2d(channels, width, 3, padding=1)
            channels = width
        elif kind == 'bn':
            yield name, nn.BatchNorm2d(width)
        else:  # not in place: outputs of convolutions are returned
            yield name, nn.ReLU() if kind == 'relu' else nn.MaxPool2d(2)


def _pretrained(vgg_type: str, depth: int) -> nn.Sequential:
    """The first `depth` layers with torchvision's weights, which number them `features.0`, `features.1`, …"""
    names = layer_names(vgg_type)[:depth]
    net = nn.Sequential()
    with torch.device('meta'):
        for name, layer in _layers(names):
            net.add_module(name, layer)
    net.to_empty(device='cpu')  # draw no random numbers for weights that are about to be loaded
    path = weights_file(vgg_type)
    # Files from before torch 0.4.1 have no batch counters.
    weights = {f'{name}.num_batches_tracked': torch.tensor(0) for name in names if name.startswith('bn')}
    for entry, value in find_weights(load_checkpoint(path), path, None).items():
        part, _, rest = entry.partition('.')
        index, _, parameter = rest.partition('.')
        if part == 'features' and index.isdigit() and int(index) < depth:
            weights[f'{names[int(index)]}.{parameter}'] = value
    differences = differences_to(net, weights)
    if differences:
        raise ValueError(f'{path} does not hold the weights of {vgg_type}: {"; ".join(differences[:3])}')
    net.load_state_dict(weights)
    return net
