"""MambaIR: super-resolution whose large pictures are tested in tiles."""

from __future__ import annotations

from basicsr.models.sr_model import SRModel
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class MambaIRModel(SRModel):
    """`SRModel` with tiled inference.

    Options: `val.tile_size`, about the side of a tile in pixels of lq (200; 0 tests pictures whole), and
    `val.tile_overlap`, the margin as a share of it (0.1), and `val.tile_mode`, how tiles are stitched (official).

    `val.patchwise_testing` changes nothing here, neither as true nor as false: MambaIR's own model cuts pictures of 200
    pixels and more whatever its option files say there, and published figures were made like that.
    """

    always_tiled = True

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        if self.tiling.tile and (opt.get('val') or {}).get('patchwise_testing') is False:
            get_root_logger().info(
                'val.patchwise_testing: false leaves tiles as they are, as in MambaIR: about %d pixels. '
                'val.tile_size: 0 tests pictures whole',
                self.tiling.tile,
            )
