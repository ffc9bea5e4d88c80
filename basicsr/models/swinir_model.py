"""SwinIRModel: the name by which option files of SwinIR, HAT and their kind call `SRModel`."""

from __future__ import annotations

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class SwinIRModel(SRModel):
    """`SRModel`, which pads pictures to whole windows where the network, or `network_g.window_size`, asks for it."""
