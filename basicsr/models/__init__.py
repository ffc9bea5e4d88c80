"""Models: a network with its losses, optimizer and checkpoints. One `*_model.py` each, chosen by `model_type`."""

from __future__ import annotations

import logging

from basicsr.utils.registry import MODEL_REGISTRY, import_modules

__all__ = ['build_model']

import_modules(__file__, __name__, '_model')


def build_model(opt: dict):
    """Build the model that `opt['model_type']` names from the resolved options.

    Raises:
        KeyError: No model of that name; the message lists those that there are.
    """
    model = MODEL_REGISTRY.get(opt['model_type'])(opt)
    logging.getLogger('basicsr').info('Model [%s] is created.', type(model).__name__)
    return model
