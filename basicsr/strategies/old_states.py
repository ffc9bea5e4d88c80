"""Training states that were saved before strategies had a place of their own in them, and BasicSR's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from basicsr.strategies.strategy import Strategy

_NAMES = {'train.swad': 'swad', 'train.wise_ft': 'wise_ft'}


def strategy_of_old_state(
    state: Mapping[str, Any], strategy: Strategy, weights_beside: Callable[[str], dict[str, Tensor]]
) -> dict[str, Any]:
    """What `save_strategy` would have returned for a training state that holds no `strategy`.

    Args:
        state: The training state.
        strategy: What the options ask for. Where a state does not show whether it was the head that trained first, it
            is taken for what they ask for.
        weights_beside: The weights under a key of the checkpoint saved beside a state that holds none, as BasicSR's.
    """
    if 'ldt' in state:
        turn = 'dual' if 'auxiliary' in state['ldt'] else 'alternating'
        return {'names': ['ldt'], 'state': {'strategy': turn, 'decomposition': state['ldt']}}
    base = strategy.names()[0] if strategy.names()[0] == 'lp_ft' else 'plain'
    networks = state.get('networks')
    if networks is None:
        networks = {'net_g': weights_beside('params')}
        if 'ema' in strategy.names():
            networks['net_g_ema'] = weights_beside('params_ema')
    saved: dict[str, Any] = {'network': networks['net_g']}
    names = [base]
    if 'net_g_ema' in networks:
        names, saved = [*names, 'ema'], {'inner': saved, 'average': networks['net_g_ema']}
    if state.get('average'):
        kind, averages = _NAMES[state['average']['option']], state['average']['average']
        names, saved = [*names, kind], {'inner': saved, 'averages': averages}
    return {'names': names, 'state': saved}
