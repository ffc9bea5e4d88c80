"""Checkpoints and training states of a model."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs.from_weights import load_network_weights
from basicsr.models.users_state import load_attributes, state_of_attributes
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights, save_checkpoint
from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import get_root_logger

_NUMBERS = int | float | Tensor | None
_OF_OTHER_SHAPES = ('Adafactor', 'LBFGS', 'Muon')
"""Optimizers that keep of a parameter what differs by its shape, or of all together."""


class Saving:
    """What a model writes, and what it reads again: networks, optimizers, schedulers, best results."""

    opt: dict
    run_state: dict[str, Any]
    written: dict[int, set[str]]

    def save(self, epoch: int, current_iter: int | str) -> None:
        """Write networks and training state; `current_iter` -1 is the end of the run, which has no state.

        Called in all processes; a failing disk is an OSError in the one that writes.
        """
        raise NotImplementedError(f'{type(self).__name__} has no save()')

    def save_weights(self, current_iter: int | str) -> None:
        """Write the network that is validated; a model that has no such method of its own writes all that it saves."""
        self.save(-1, current_iter)

    @property
    def param_key(self) -> str:
        """The network that is validated, in the checkpoints that `save_weights` writes."""
        return 'params_ema' if 'net_g_ema' in self._networks() else 'params'

    def _networks(self) -> dict[str, nn.Module]:
        """The networks whose weights are part of the training state: all that an optimizer steps, or that say so.

        By their names, `net_<...>` and `<...>_ema`, others say so. A network by two names is there once.
        """
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        stepped = {id(parameter) for group in groups for parameter in group['params']}
        networks: dict[str, nn.Module] = {}
        for name, net in sorted(vars(self).items(), key=lambda entry: not entry[0].startswith('net_')):
            if not isinstance(net, nn.Module) or any(net is other for other in networks.values()):
                continue
            named = name.startswith('net_') or name.endswith('_ema')
            if named or any(id(parameter) in stepped for parameter in net.parameters()):
                networks[name] = net
        return networks

    @master_only
    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int | str,
        param_key: str | list = 'params',
    ) -> None:
        """Write `models/<net_label>_<current_iter>.pth`: one state dict under each key.

        Args:
            net: Network, or networks.
            net_label: For example `net_g`.
            current_iter: Iteration, or a word; -1 is `latest`.
            param_key: Key, or as many keys.
        """
        nets, keys = (net, param_key) if isinstance(net, list) else ([net], [param_key])
        self._save_weights(
            {key: self.get_bare_model(one).state_dict() for one, key in zip(nets, keys, strict=True)},
            net_label,
            current_iter,
        )

    @master_only
    def _save_weights(self, weights: dict[str, dict[str, Tensor]], net_label: str, current_iter: int | str) -> None:
        file = os.path.join(
            self.opt['path']['models'], f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
        )
        on_cpu = {key: {name: value.cpu() for name, value in state.items()} for key, state in weights.items()}
        save_checkpoint(on_cpu, file)
        self._note_written(file, current_iter)

    def _note_written(self, file: str, current_iter: int | str) -> None:
        """Remember a numbered file, so that `logger.keep_checkpoints` deletes those of this run and no others."""
        if isinstance(current_iter, int) and current_iter != -1:
            name = os.path.join(os.path.basename(os.path.dirname(file)), os.path.basename(file))
            self.written.setdefault(current_iter, set()).add(name)

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """Load weights from a checkpoint of this framework, of BasicSR or MambaIR, or from a bare state dict.

        Raises:
            FileNotFoundError, ValueError: No file, no checkpoint, or one of another network; the message says of which.
        """
        differences = load_network_weights(self.get_bare_model(net), load_path, param_key, strict)
        logger = get_root_logger()
        logger.info('Loaded %s from %s.', type(self.get_bare_model(net)).__name__, load_path)
        for line in differences[:10]:
            logger.warning('  %s', line)

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Write `training_states/<current_iter>.state`: all that goes on where this leaves off."""
        if isinstance(current_iter, int) and current_iter != -1:
            file = os.path.join(self.opt['path']['training_states'], f'{current_iter}.state')
            state = {'epoch': epoch, 'iter': current_iter, **self.run_state, **self.training_state()}
            self._note_written(file, current_iter)
            state['written'] = {iteration: sorted(files) for iteration, files in self.written.items()}
            save_checkpoint(state, file)

    def training_state(self) -> dict[str, Any]:
        return {
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'types': self._types(),
            'networks': {name: self.get_bare_model(net).state_dict() for name, net in self._networks().items()},
            'best_metric_results': copy.deepcopy(self.best_metric_results),
            **({'attributes': attributes} if (attributes := state_of_attributes(self)) else {}),
        }

    def _types(self) -> dict[str, list[str]]:
        return {
            'train.optim_g.type': [type(optimizer).__name__ for optimizer in self.optimizers],
            'train.scheduler.type': [type(scheduler).__name__ for scheduler in self.schedulers],
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Put back what `training_state` returned.

        Raises:
            ValueError: The state was saved with other optimizers or schedulers.
        """
        for option, saved in resume_state.get('types', {}).items():
            asked = self._types()[option]
            if saved != asked:
                saved, asked = (', '.join(types) or 'none' for types in (saved, asked))
                raise ValueError(
                    f'{option}: the training state was saved with {saved}, and the options ask for {asked}; a run goes '
                    'on with what it began with. For another one start anew, with path.pretrain_network_g'
                )
        for own, saved in ((self.optimizers, 'optimizers'), (self.schedulers, 'schedulers')):
            states = resume_state[saved]
            if len(states) != len(own):
                raise ValueError(f'the training state holds {len(states)} {saved}, the options ask for {len(own)}')
            for one, state in zip(own, states, strict=True):
                if saved == 'optimizers':
                    _check_fits(one, state)
                one.load_state_dict(state)
        self._resume_networks(resume_state)
        load_attributes(self, resume_state.get('attributes', {}))
        self.best_metric_results = resume_state.get('best_metric_results', {})
        self._resume_written(resume_state)

    def _resume_written(self, state: dict[str, Any]) -> None:
        """Take over what the run wrote before, unless the state lies in the folder of another."""
        states, file = self.opt['path'].get('training_states'), self.opt['path'].get('resume_state')
        self.written = {}
        if states and file and os.path.realpath(os.path.dirname(file)) == os.path.realpath(states):
            for iteration, files in state.get('written', {}).items():
                for name in files:
                    self._note_written(name, iteration)

    def _resume_networks(self, state: dict[str, Any]) -> None:
        """Load the networks of a training state, or those saved beside one that holds none, as BasicSR's."""
        for name, net in self._networks().items():
            if 'networks' not in state:
                if not name.startswith('net_'):  # the model has found it by itself
                    continue
                load_weights(self.get_bare_model(net), self._weights_beside_the_state('params', name), 'the checkpoint')
            elif name in state['networks']:
                load_weights(self.get_bare_model(net), state['networks'][name], 'the training state')
            elif name.startswith('net_'):
                raise ValueError(f'the training state holds no {name}: it was saved with other options')

    def _weights_beside_the_state(self, param_key: str, name: str = 'net_g') -> dict[str, Tensor]:
        """The weights of a network in the checkpoint that was saved with the training state."""
        path = self.opt['path']['resume_network'].replace('net_g_', f'{name}_')
        return find_weights(load_checkpoint(path), path, param_key)


def _check_fits(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Make sure of what `load_state_dict` takes on trust, and kernels then write by.

    Raises:
        ValueError: Settings are missing or no numbers; or what is kept of a parameter by an optimizer of torch lacks
            an entry that others have, or has another shape than the parameter.
    """
    kind = type(optimizer).__name__
    plain = type(optimizer).__module__.startswith('torch.optim') and kind not in _OF_OTHER_SHAPES
    for own, saved in zip(optimizer.param_groups, state.get('param_groups', []), strict=False):
        for key, value in own.items():
            if key != 'params' and key not in saved:
                raise ValueError(f'optimizers: {key} is missing from what was saved of a {kind}')
            if isinstance(value, _NUMBERS) and not isinstance(saved[key], _NUMBERS):
                raise ValueError(f'optimizers: {key} was saved as {saved[key]!r}, and is a number')
        kept = state.get('state', {})
        entries = {name for number in saved.get('params', []) for name in kept.get(number, {})}
        for number, parameter in zip(saved.get('params', []), own['params'], strict=False):
            lacking = sorted(entries - kept[number].keys()) if plain and number in kept else []
            if lacking:
                raise ValueError(f'optimizers: {", ".join(lacking)} of parameter {number} is missing')
            for name, value in kept.get(number, {}).items() if plain else ():
                if isinstance(value, Tensor) and value.shape not in (parameter.shape, torch.Size([])):
                    raise ValueError(
                        f'optimizers: {name} of parameter {number} was saved with shape {tuple(value.shape)}, and the '
                        f'parameter has {tuple(parameter.shape)}'
                    )
