"""LDTModel: restoration, trained by layer decomposition."""

from __future__ import annotations

from basicsr.models.mambair_model import MambaIRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class LDTModel(MambaIRModel):
    """`MambaIRModel`, for which `train.ldt` is there whether the options have it or not."""

    train_defaults = {'ldt': {}}
