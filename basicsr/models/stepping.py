"""Backward passes and optimizer steps: mixed precision, clipping, and steps that must not be taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.utils.logger import get_root_logger

_AUTOCAST = {None: None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def parts_of(batch: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """A batch in `count` parts, or in as many as it has samples; what is no tensor is in each."""
    if count == 1:
        return [dict(batch)]
    chunks = {key: value.chunk(count) for key, value in batch.items() if isinstance(value, Tensor)}
    return [
        {key: chunks[key][index] if key in chunks else value for key, value in batch.items()}
        for index in range(len(next(iter(chunks.values()))))
    ]


class Stepper:
    """Does what `train.amp`, `train.grad_clip_norm` and `train.max_bad_steps` say.

    Weights, gradients and optimizer stay float32; under `amp` networks compute in half precision, and the losses of
    float16 are scaled so that small gradients do not vanish.

    Args:
        options: The section `train`.
        device: Where the network is.

    Attributes:
        bad_steps: Steps in a row that were skipped because a loss or a gradient was NaN or infinite.
        all_bad_steps: All of them.

    Raises:
        ValueError: An option has no meaning.
    """

    def __init__(self, options: Mapping[str, Any], device: torch.device) -> None:
        amp = options.get('amp')
        if amp not in _AUTOCAST:
            raise ValueError(f'train.amp: is bf16, fp16 or left out, not {amp!r}')
        self._dtype, self._device = _AUTOCAST[amp], device
        self._clip = options.get('grad_clip_norm')
        most = options.get('max_bad_steps')
        self._most = 10 if most is None else most
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp == 'fp16')
        self.bad_steps = self.all_bad_steps = 0
        if amp == 'bf16' and device.type == 'cpu' and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            get_root_logger().warning(
                'train.amp: this processor has no bfloat16 instructions, so that bf16 is several times slower than '
                'float32: leave amp out'
            )

    def autocast(self) -> torch.autocast:
        """Context in which networks run."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a loss, scaled where float16 needs it.

        Raises:
            ValueError: The loss depends on nothing that trains.
        """
        if not loss.requires_grad:
            raise ValueError(
                'the loss of this step depends on no weight that trains: the output is detached, all that trains is '
                'frozen, or re-entrant checkpoints (use_reentrant=True) lie above frozen layers'
            )
        self._scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, losses: Mapping[str, float]) -> bool:
        """Clip the gradients and let the optimizer step, unless a loss or a gradient is NaN or infinite.

        Args:
            optimizer: Over the parameters that `backward` gave gradients.
            losses: By name, the same in all processes, so that all of them decide alike.

        Returns:
            Whether the step was taken. After one that was not, nothing else of the iteration may be done either.

        Raises:
            ValueError: More than `max_bad_steps` steps in a row were skipped.
        """
        self._scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        causes = [f'{name} is {value}' for name, value in losses.items() if not math.isfinite(value)]
        if not causes and not torch.isfinite(norm):
            causes = [f'the gradient is {norm.item()}']
        if not causes:
            if self._clip:
                nn.utils.clip_grads_with_norm_(parameters, self._clip, norm)
            self._scaler.step(optimizer)
            self.bad_steps = 0
        self._scaler.update()
        if causes:
            self._skipped(causes)
        return not causes

    def _skipped(self, causes: list[str]) -> None:
        what = ', '.join(causes)
        self.bad_steps += 1
        self.all_bad_steps += 1
        scale = f'; the scale of the loss is now {self._scaler.get_scale():g}' if self._scaler.is_enabled() else ''
        get_root_logger().warning(
            'Step skipped, %d in a row and %d in all: %s%s',
            self.bad_steps,
            self.all_bad_steps,
            what,
            scale,
        )
        if self.bad_steps > self._most:
            raise NotFinite(
                f'{what}, and so it has been for {self.bad_steps} steps in a row, more than '
                f'train.max_bad_steps: {self._most}; lower train.optim_g.lr, set train.grad_clip_norm, or look at the '
                'data'
            )

    def state_dict(self) -> dict[str, Any]:
        return {'scaler': self._scaler.state_dict(), 'bad_steps': self.bad_steps, 'all_bad_steps': self.all_bad_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._scaler.is_enabled() and state['scaler']:
            self._scaler.load_state_dict(state['scaler'])
        self.bad_steps, self.all_bad_steps = state['bad_steps'], state['all_bad_steps']


class NotFinite(ValueError):
    """Losses or gradients have been NaN or infinite for too long."""
