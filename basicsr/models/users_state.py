"""What models of users keep in attributes of their own: pools of earlier pictures, counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from basicsr.models.contract import is_of_users, stored_by

_PLAIN = (bool, int, float, str)
_PICTURES = ('lq', 'gt', 'output')


def as_built(model: Any) -> dict[str, Any]:
    """What tells whether an attribute of the model changes from now on; nothing of models of this project."""
    return {name: _mark(value) for name, value in _attributes(model)} if is_of_users(type(model)) else {}


def state_of_attributes(model: Any) -> dict[str, Any]:
    """The attributes of a model of users that have changed since it was built, for a training state.

    These are tensors, numbers and texts, and lists, tuples and dictionaries of such. What this project's own classes
    set is kept elsewhere; networks and optimizers are no attributes of this kind.
    """
    if not is_of_users(type(model)):
        return {}
    known = model.as_built
    return {
        name: {'value': value, 'on_device': _on_device(value)}
        for name, value in _attributes(model)
        if name not in known or known[name] != _mark(value)
    }


def load_attributes(model: Any, saved: Mapping[str, Any]) -> None:
    """Put back what `state_of_attributes` returned."""
    for name, content in saved.items():
        setattr(model, name, _moved(content['value'], model.device) if content['on_device'] else content['value'])


def _attributes(model: Any) -> list[tuple[str, Any]]:
    """(name, value) of the attributes that a user's classes have set, and that a training state can hold."""
    own = stored_by(type(model)) | {*_PICTURES}
    return [(name, value) for name, value in vars(model).items() if name not in own and _can_be_kept(value)]


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, _PLAIN) and _can_be_kept(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_can_be_kept, value))
    return value is None or type(value) in _PLAIN or (isinstance(value, Tensor) and not value.requires_grad)


def _mark(value: Any) -> Any:
    """Equal to that of another time where the value has not changed in between."""
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, dict):
        return {key: _mark(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark(item) for item in value]
    return value


def _on_device(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.device.type != 'cpu'
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_on_device, items))


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return type(value)(_moved(item, device) for item in value) if isinstance(value, list | tuple) else value
