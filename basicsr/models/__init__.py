"""Models: a network with its losses, optimizer and checkpoints. One `*_model.py` each, chosen by `model_type`."""

from __future__ import annotations

import copy
import logging

from basicsr.models.contract import is_of_users
from basicsr.models.users_state import as_built
from basicsr.utils.registry import MODEL_REGISTRY, import_modules

__all__ = ['build_model']

import_modules(__file__, __name__, '_model')


def build_model(opt: dict):
    """Build the model that `opt['model_type']` names from the resolved options.

    Raises:
        KeyError: No model of that name; the message lists those that there are.
    """
    kind = MODEL_REGISTRY.get(opt['model_type'])
    if is_of_users(kind):  # as in BasicSR: they take out of the options what they have read
        opt = copy.deepcopy(opt)
        opt['val'] = {'suffix': None, **(opt.get('val') or {})}
    model = kind(opt)
    model.as_built = as_built(model)
    logging.getLogger('basicsr').info('Model [%s] is created.', type(model).__name__)
    return model
