"""Which run a training state is of, and what it means to go on from it under other options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basicsr.options.file import yaml_load
from basicsr.utils.logger import get_root_logger

_IN_THE_STATE = ('train.optim_', 'train.scheduler', 'train.ldt.', 'path.pretrain_network_')
_READ_ANEW = ('train.ldt.repartition_every', 'train.ldt.scoring_batches')
_NEVER_COMPARED = ('name', 'manual_seed', 'path.resume_state', 'path.resume_another_run')
_SHOWN = 12


def changes(before: Any, now: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value before, value now) of all in which two nested dictionaries differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from changes(before.get(key), now.get(key), f'{path}.{key}' if path else str(key))
    elif before != now:
        yield path, before, now


def differences(before: Any, now: Any) -> list[str]:
    """`changes` in words: 'train.total_iter: 30, now 60'."""
    return [f'{option}: {old!r}, now {new!r}' for option, old, new in changes(before, now)]


def check_identity(state: dict[str, Any], path: str, opt: dict, written: dict) -> None:
    """Compare the run that a training state is of with the one that goes on from it.

    Options that differ are a warning, which says of each what becomes of it. The seed of the run becomes the state's.

    Args:
        state: The training state, see `basicsr.runs.resume.run_state`.
        path: Its file.
        opt: The resolved options; `manual_seed` is changed in place.
        written: The options as they were written, merged.

    Raises:
        ValueError: The state is of a run with another name, or with another seed than the one that the options ask
            for, and `path.resume_another_run` is not true.
    """
    before = _options_of(state, path)
    seed, drawn = state.get('manual_seed', opt['manual_seed']), opt.get('seed_is_drawn', False)
    other = []
    if before.get('name', opt['name']) != opt['name']:
        other.append(f'name: {before["name"]}, now {opt["name"]}')
    if seed != opt['manual_seed'] and not drawn:
        other.append(f'manual_seed: {seed}, now {opt["manual_seed"]}')
    if other and not opt['path'].get('resume_another_run'):
        raise ValueError(
            f'{path} is the training state of another run ({"; ".join(other)}): set path.resume_another_run: true to '
            'go on from it all the same, give this run a name of its own, or undo the change'
        )
    if seed != opt['manual_seed']:
        if not drawn:
            get_root_logger().warning(
                'The run goes on with the seed that it began with, %d, not with %d', seed, opt['manual_seed']
            )
        opt['manual_seed'] = seed
    if before:
        _say_what_differs(before, written, state['iter'])


def forget_other_bests(best: dict[str, dict], state: dict[str, Any], path: str, written: dict) -> None:
    """Take out the best results of metrics that go on under their name with other options: they cannot be compared.

    Args:
        best: `best_metric_results` of a model, changed in place.
        state: The training state, from which they are.
        path: Its file.
        written: The options as they were written, merged.
    """
    before = _options_of(state, path)
    was, now = ((options.get('val') or {}).get('metrics') or {} for options in (before, written))
    changed = [metric for metric in now if metric in was and was[metric] != now[metric]]
    for results in best.values():
        for metric in changed:
            results.pop(metric, None)
    if changed:
        get_root_logger().warning(
            'Of %s, whose options changed, the best result is counted from here on', ', '.join(changed)
        )


def _options_of(state: dict[str, Any], path: str) -> dict:
    """The options that the state was saved under: its own record, or else what lies beside it; empty if unknown."""
    beside = Path(path).parent.parent / 'options.yml'
    try:
        text = state.get('options') or beside.read_text(encoding='utf-8')
        found = yaml_load(text)
    except (OSError, ValueError, TypeError):  # a kill may have left half of the file: no reason not to go on
        return {}
    return found if isinstance(found, dict) else {}


def _say_what_differs(before: dict, now: dict, current_iter: int) -> None:
    changed = [change for change in changes(before, now) if change[0] not in _NEVER_COMPARED]
    if not changed:
        return
    lines = [f'  {option}: {old!r}, now {new!r} ({_meaning(option)})' for option, old, new in changed[:_SHOWN]]
    if len(changed) > _SHOWN:
        lines.append(f'  and {len(changed) - _SHOWN} more')
    get_root_logger().warning(
        'The state of iteration %d was saved under other options, so that the run is neither of the two:\n%s',
        current_iter,
        '\n'.join(lines),
    )


def _meaning(option: str) -> str:
    if option.startswith(_IN_THE_STATE) and option not in _READ_ANEW:
        return 'without effect on a run that goes on, whose training state holds it'
    if option.startswith('network_'):
        return 'the weights of the state go on in another network'
    if option.startswith('datasets.train'):
        return 'it goes on with other training samples'
    return 'takes effect from here on'
