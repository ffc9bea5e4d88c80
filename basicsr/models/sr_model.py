"""Restoration and super-resolution: pairs of pictures, losses on pixels and features, tiled tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs.traits import Traits, traits_of
from basicsr.losses import build_loss
from basicsr.models.contract import is_replaced
from basicsr.models.picture_model import PictureModel
from basicsr.models.self_ensemble import self_ensemble
from basicsr.models.task import Task
from basicsr.models.tiling import Tiling, fitted
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class SRModel(PictureModel, Task):
    """Train and test `network_g` on pairs, by the strategy that `train` asks for.

    The network says by its `traits` which sizes it takes, and in which tiles large pictures are tested. Inputs are
    padded by reflection to those sizes, and outputs cut. `val.patchwise_testing: true` tests pictures in tiles whatever
    the network says, of `val.tile_size` with `val.tile_overlap`, stitched as `val.tile_mode` says, and
    `val.selfensemble_testing: true` averages over a picture's eight flips and turns, each of which is cut into tiles.
    Where memory runs out, tiles become smaller, see `Tiling`.
    """

    default_tile: int | None = None
    """About the side of the tiles, in pixels of lq, where the options say nothing; None: as the network says."""

    cri_pix: nn.Module | None = None
    cri_perceptual: nn.Module | None = None

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        self.tiling = Tiling.from_options(opt.get('val') or {}, self._default_tile())

    def _default_tile(self) -> int:
        if self.default_tile is not None:
            return self.default_tile
        whole = (self.opt.get('val') or {}).get('patchwise_testing') is False
        return 0 if whole else self.traits.tile_size

    @property
    def traits(self) -> Traits:
        """What the network says of itself."""
        return traits_of(self.get_bare_model(self.net_g), self.opt['network_g'])

    def init_losses(self) -> None:
        options = self.opt['train']
        self.cri_pix, self.cri_perceptual = (
            build_loss(options[key]).to(self.device) if options.get(key) else None
            for key in ('pixel_opt', 'perceptual_opt')
        )
        if self.cri_pix is None and self.cri_perceptual is None and not is_replaced(self, 'optimize_parameters'):
            raise ValueError('train.pixel_opt: missing; training needs a loss, for example {type: L1Loss}')

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq`, and `gt` where there is one."""
        self.lq = data['lq'].to(self.device, non_blocking=True, memory_format=self._memory_format)
        self.gt = None
        if 'gt' in data:
            self.gt = data['gt'].to(self.device, non_blocking=True, memory_format=self._memory_format)

    def train_step(self, data: dict[str, Any], current_iter: int) -> bool | None:
        """By way of `feed_data` and `optimize_parameters`, which models of users replace."""
        self.feed_data(data)
        return self.optimize_parameters(current_iter)

    def optimize_parameters(self, current_iter: int) -> bool | None:
        return self.step({'lq': self.lq, 'gt': self.gt}, current_iter)

    def losses(self, net: Callable, batch: dict[str, Any]) -> dict[str, Tensor]:
        """l_pix, and with `train.perceptual_opt` l_percep and l_style."""
        gt = batch['gt']
        if gt is None:
            raise ValueError('datasets.train: gives no gt, and training needs pairs: type: PairedImageDataset')
        output = self.infer(net, batch['lq']).float()
        if output.shape != gt.shape:
            raise ValueError(self._misfit(batch['lq'], output, gt))
        self.output = output.detach()
        terms = {'l_pix': self.cri_pix(output, gt)} if self.cri_pix is not None else {}
        if self.cri_perceptual is not None:
            features = dict(zip(('l_percep', 'l_style'), self.cri_perceptual(output, gt), strict=True))
            terms.update({name: value for name, value in features.items() if value is not None})
        return terms

    def _misfit(self, lq: Tensor, output: Tensor, gt: Tensor) -> str:
        """Why the network's output cannot be compared with the truth, with the option to blame."""
        network, scale = self.opt['network_g'], self.opt.get('scale', 1)
        ratio = output.shape[-1] / lq.shape[-1]
        if output.shape[-2:] != gt.shape[-2:]:
            known = next((key for key in ('upscale', 'scale') if key in network), None)
            says = f'network_g.{known}: {network[known]}' if known else f'network_g: enlarges {ratio:g} times'
            return f'{says}, but scale: {scale}; lq of {_size(lq)} becomes {_size(output)}, and gt is {_size(gt)}'
        return f'network_g: makes {output.shape[1]} channels, and gt has {gt.shape[1]} (color, task of datasets.train)'

    def infer(self, net: Callable, lq: Tensor) -> Tensor:
        """What `net` makes of `lq`, whole pictures or a tile of them, at sizes and values that it takes."""
        return fitted(net, self.traits, lq, self.opt.get('scale', 1))

    @torch.no_grad()
    def test(self) -> None:
        """Fill `output` from `lq`."""
        with self.published() as net:
            self.output = self.restore(net, self.lq)

    def restore(self, net: nn.Module, lq: Tensor) -> Tensor:
        """What `net` makes of pictures of any size, as the section `val` says: in tiles, as a self-ensemble."""
        infer = partial(self.tiling.run, partial(self.infer, net), scale=self.opt.get('scale', 1))
        ensemble = (self.opt.get('val') or {}).get('selfensemble_testing')
        return self_ensemble(infer, lq) if ensemble else infer(lq)

    def validation_loss(self, net: nn.Module, batch: dict[str, Any], dataset_name: str) -> Tensor:
        if batch['gt'] is None:
            raise ValueError(f'train.{self.strategy.names()[-1]}: goes by the loss in validation, and {dataset_name} '
                             'gives no gt')  # fmt: skip
        # What was tested is the trained network as long as nothing else is published.
        output = self.output if net is self._lent else self.restore(net, batch['lq'])
        criterion = self.cri_pix or (lambda *pair: sum(term for term in self.cri_perceptual(*pair) if term is not None))
        return criterion(output.float(), batch['gt'])


def _size(picture: Tensor) -> str:
    return 'x'.join(map(str, picture.shape[-2:]))
