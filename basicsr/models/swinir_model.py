"""SwinIR and other networks of windows: pictures are padded to whole windows."""

from __future__ import annotations

from torch import Tensor, nn

from basicsr.models.sr_model import SRModel
from basicsr.models.tiling import pad_mirrored
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class SwinIRModel(SRModel):
    """`SRModel` for networks that need both sides to be multiples of `network_g.window_size` (1 where that is absent).

    Tests pad the right and lower edges by reflection and cut the result. Pictures are tested whole, or in tiles that
    are padded each, with `val.patchwise_testing: true`.
    """

    def infer(self, net: nn.Module, lq: Tensor) -> Tensor:
        window, scale = self.opt['network_g'].get('window_size') or 1, self.opt.get('scale', 1)
        height, width = lq.shape[-2:]
        output = net(pad_mirrored(lq, -width % window, -height % window))
        return output[..., : height * scale, : width * scale]
