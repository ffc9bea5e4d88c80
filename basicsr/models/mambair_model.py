"""MambaIR: super-resolution whose large pictures are tested in tiles."""

from __future__ import annotations

from torch import Tensor, nn

from basicsr.models.sr_model import SRModel
from basicsr.models.tiling import check_tiles, tiled
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class MambaIRModel(SRModel):
    """`SRModel` with tiled inference.

    Options: `val.tile_size`, about the side of a tile in pixels of lq (200; 0 tests pictures whole), and
    `val.tile_overlap`, the margin as a share of it (0.1).
    """

    def __init__(self, opt: dict) -> None:
        val = opt.get('val') or {}
        self.tile_size, self.tile_overlap = val.get('tile_size', 200), val.get('tile_overlap', 0.1)
        check_tiles(self.tile_size, self.tile_overlap)
        super().__init__(opt)

    def infer(self, net: nn.Module, lq: Tensor) -> Tensor:
        return tiled(net, lq, self.opt.get('scale', 1), self.tile_size, self.tile_overlap)
