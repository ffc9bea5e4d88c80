"""MambaIRModel: restoration whose large pictures are tested in tiles."""

from __future__ import annotations

from basicsr.models.sr_model import SRModel
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class MambaIRModel(SRModel):
    """`SRModel` with tiles of about 200 pixels, whatever the network.

    `val.patchwise_testing` changes nothing here, neither as true nor as false: MambaIR's own model cuts pictures of 200
    pixels and more whatever its option files say there, and published figures were made like that. `val.tile_size: 0`
    tests pictures whole.
    """

    default_tile = 200

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        if self.tiling.tile and (opt.get('val') or {}).get('patchwise_testing') is False:
            get_root_logger().info(
                'val.patchwise_testing: false leaves tiles as they are, as in MambaIR: about %d pixels. '
                'val.tile_size: 0 tests pictures whole',
                self.tiling.tile,
            )
