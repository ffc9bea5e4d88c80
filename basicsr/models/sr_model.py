"""Restoration and super-resolution: pairs of pictures, losses on pixels and features, tiled tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs.traits import Traits, traits_of
from basicsr.losses import build_loss
from basicsr.models.contract import is_replaced
from basicsr.models.picture_model import BATCH, PictureModel
from basicsr.models.probing import checked_output, misfit, why_not
from basicsr.models.self_ensemble import self_ensemble
from basicsr.models.task import Task
from basicsr.models.tiling import Tiling, fitted
from basicsr.utils.registry import MODEL_REGISTRY
from ldt.restore import preserve_modes_and_buffers


@MODEL_REGISTRY.register()
class SRModel(PictureModel, Task):
    """Train and test `network_g` on pairs, by the strategy that `train` asks for.

    The network says by its `traits` which sizes it takes, and in which tiles large pictures are tested. Inputs are
    padded by reflection to those sizes, and outputs cut. `val.patchwise_testing: true` tests pictures in tiles whatever
    the network says, of `val.tile_size` with `val.tile_overlap`, stitched as `val.tile_mode` says, and
    `val.selfensemble_testing: true` averages over a picture's eight flips and turns, each of which is cut into tiles.
    Where memory runs out, tiles become smaller, see `Tiling`.
    """

    loss_options = {'l_pix': 'train.pixel_opt', 'l_percep': 'train.perceptual_opt', 'l_style': 'train.perceptual_opt'}
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
        if not isinstance(data, Mapping) or not isinstance(data.get('lq'), Tensor):
            has = ', '.join(map(str, data)) if isinstance(data, Mapping) else f'a {type(data).__name__}'
            raise ValueError(f'{type(self).__name__} needs lq, a tensor (N, C, H, W); a batch has {has or "nothing"}')
        self.lq = data['lq'].to(self.device, non_blocking=True, memory_format=self._memory_format)
        vars(self).pop('gt', None)
        if 'gt' in data:
            self.gt = data['gt'].to(self.device, non_blocking=True, memory_format=self._memory_format)

    def train_step(self, data: dict[str, Any], current_iter: int) -> bool | None:
        """By way of `feed_data` and `optimize_parameters`, which models of users replace."""
        self.feed_data(data)
        return self.optimize_parameters(current_iter)

    def optimize_parameters(self, current_iter: int) -> bool | None:
        return self.step({'lq': self.lq, 'gt': getattr(self, 'gt', None)}, current_iter)

    def losses(self, net: Callable, batch: dict[str, Any]) -> dict[str, Tensor]:
        """l_pix, and with `train.perceptual_opt` l_percep and l_style."""
        gt = batch['gt']
        if gt is None:
            raise ValueError('datasets.train: gives no gt, and training needs pairs: type: PairedImageDataset')
        output = self.infer(net, batch['lq']).float()
        if output.shape != gt.shape:
            raise ValueError(misfit(output, gt, self.opt, 'train'))
        self.output = output.detach()
        terms = {'l_pix': self.cri_pix(output, gt)} if self.cri_pix is not None else {}
        if self.cri_perceptual is not None:
            features = dict(zip(('l_percep', 'l_style'), self.cri_perceptual(output, gt), strict=True))
            terms.update({name: value for name, value in features.items() if value is not None})
        return terms

    def loss(self, net: nn.Module, data: Any) -> Tensor:
        """As every task's; the batch in hand stays in hand, though `feed_data` takes this one."""
        in_hand = {name: vars(self)[name] for name in BATCH if name in vars(self)}
        try:
            return super().loss(net, data)
        finally:
            self.forget_batch()
            vars(self).update(in_hand)

    def why_not(self, data: Any, key: str) -> str | None:
        net = self.get_bare_model(self.net_g)
        run = partial(self.infer, self._in_amp(net) if self.is_train else net)
        with preserve_modes_and_buffers(net):
            return why_not(run, self.batch_on_device(data)['lq'], self.opt, key)

    def rehearse_test(self, data: dict[str, Any], key: str) -> dict[str, Exception]:
        tile = self.tiling.tile
        try:
            return super().rehearse_test(data, key)
        finally:
            self.tiling.tile = tile

    def check_result(self, visuals: dict[str, Tensor], key: str) -> None:
        if 'gt' in visuals and visuals['result'].shape != visuals['gt'].shape:
            raise ValueError(misfit(visuals['result'], visuals['gt'], self.opt, key))

    def infer(self, net: Callable, lq: Tensor) -> Tensor:
        """What `net` makes of `lq`, whole pictures or a tile of them, at sizes and values that it takes."""
        return fitted(partial(checked_output, net, self.opt), self.traits, lq, self.opt.get('scale', 1))

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
