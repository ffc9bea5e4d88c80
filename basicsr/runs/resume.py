"""Where a run goes on: finding its training state, and all that the pipeline itself keeps in one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from basicsr.options.resolve import copy_opt_file, dict2str
from basicsr.runs.identity import check_identity
from basicsr.runs.training_state import load_training_state
from basicsr.utils.dist_util import all_gather
from basicsr.utils.logger import get_root_logger, not_essential
from basicsr.utils.misc import check_resume, get_random_state, set_random_state
from basicsr.utils.registry import MODEL_REGISTRY


class Sampler(Protocol):
    """What of a sampler tells how far an epoch has come."""

    total_size: int
    num_replicas: int


def load_resume_state(opt: dict, written: dict) -> dict[str, Any] | None:
    """The training state to go on from: `path.resume_state`, or with `--auto_resume` the newest that can be read.

    What differs between the run that it is of and this one is refused or said, see `check_identity`.

    Args:
        opt: The resolved options; the state's path goes into them.
        written: The options as they were written, merged.

    Returns:
        The state, or None where the run starts anew.

    Raises:
        FileNotFoundError, ValueError: The state that is named is not there, or none, or of another run; or
            `--auto_resume` finds states of which none can be read.
        OSError: The folder of the training states cannot be listed.
    """
    path, state = opt['path'].get('resume_state'), None
    logger = get_root_logger()
    if opt['auto_resume']:
        files = _states(opt)
        broken = []
        for file in files:
            try:
                path, state = str(file), load_training_state(file)
                break
            except (ValueError, OSError) as error:
                broken.append(str(error))
                logger.warning('%s; going back to the one before', error)
        if files and state is None:
            raise ValueError(
                'no training state can be read:\n  '
                + '\n  '.join(broken)
                + '\nwithout --auto_resume the run starts anew'
            )
        if not files and not path:
            logger.info('There is no training state in %s: starting anew', opt['path']['training_states'])
    if not path:
        return None
    try:
        state = state or load_training_state(path)
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f'path.resume_state: {error}') from error
    newer = [file.name for file in _states(opt) if int(file.stem) > state['iter']]
    if newer and not opt['auto_resume']:
        logger.warning(
            'Newer training states are there (%s), which --auto_resume would take: move them away', ', '.join(newer)
        )
    opt['path']['resume_state'] = str(path)
    opt['path']['resume_network'] = str(Path(path).parent.parent / 'models' / f'net_g_{state["iter"]}.pth')
    check_identity(state, str(path), opt, written)
    return state


def options_of_a_resumed_model(opt: dict, current_iter: int) -> dict:
    """The options as BasicSR gives them to a model of a resumed run: its weights are those saved at that iteration.

    Models of this project find their weights in the training state, and get `opt` itself. Others may load them when
    they are built, from where `check_resume` says; what is not there is left as it is.
    """
    if MODEL_REGISTRY.get(opt['model_type']).__module__.startswith('basicsr.models.'):
        return opt
    resumed = {**opt, 'path': dict(opt['path'])}
    check_resume(resumed, current_iter)
    for key, path in resumed['path'].items():
        if key.startswith('pretrain_network_') and path and not Path(path).is_file():
            resumed['path'][key] = opt['path'].get(key)
    return resumed


def _states(opt: dict) -> list[Path]:
    """The numbered training states of the experiment, the newest first."""
    folder = opt['path']['training_states']
    try:
        files = [Path(folder, name) for name in os.listdir(folder)]
    except FileNotFoundError:
        broken = [path for path in (Path(folder), *Path(folder).parents) if path.is_symlink() and not path.exists()]
        if broken:
            raise OSError(
                f'{broken[0]} is a link to {os.readlink(broken[0])}, which is not there (not mounted?), so that nobody '
                'knows whether there are training states to go on from; bring it back, or remove the link'
            ) from None
        return []
    except OSError as error:
        raise OSError(
            f'{folder} cannot be listed ({error.strerror}), so that nobody knows whether there are training states to '
            'go on from; make it readable, or give the run another name'
        ) from error
    numbered = [file for file in files if file.suffix == '.state' and file.stem.isdecimal()]
    return sorted(numbered, key=lambda file: int(file.stem), reverse=True)


def keep_options(options: dict, folder: str, resumed_at: int | None) -> None:
    """Write `options.yml`; where a resumed run changed it, the one before stays as `options_until_<iter>.yml`."""
    file = Path(folder) / 'options.yml'
    with not_essential(file):
        if resumed_at is not None and file.exists() and file.read_bytes() != dict2str(options).encode():
            file.replace(file.with_name(f'options_until_{resumed_at}.yml'))
        copy_opt_file(options, folder)


def run_state(
    opt: dict, written: dict, sampler: Sampler, batches: int, batch_size: int, validated: bool
) -> dict[str, Any]:
    """What a training state holds beside the model's own; every process must call this.

    Args:
        opt: The resolved options.
        written: The options as they were written, merged.
        sampler: Of the training data.
        batches: How many of the epoch's batches this process has had.
        batch_size: Samples in each.
        validated: Whether the validation that was due at this iteration has been done.
    """
    return {
        'manual_seed': opt['manual_seed'],
        'options': dict2str(written),
        'place': {'samples': batches * batch_size * sampler.num_replicas, 'epoch_size': sampler.total_size},
        'random': all_gather(get_random_state()),
        'validated': validated,
        'log_position': _log_position(),
    }


def _log_position() -> int:
    """Length of the text log in bytes; 0 where there is none."""
    files = [handler.baseFilename for handler in get_root_logger().handlers if hasattr(handler, 'baseFilename')]
    with suppress(OSError):
        return Path(files[0]).stat().st_size if files else 0
    return 0


def batches_done(state: dict[str, Any], sampler: Sampler, batch_size: int) -> int:
    """How many batches of the state's epoch each process leaves out, so that none comes twice."""
    place = state.get('place', {'samples': 0, 'epoch_size': sampler.total_size})
    if place['epoch_size'] != sampler.total_size:
        get_root_logger().warning(
            'An epoch has %d samples, and had %d when the run was saved: the epoch starts anew',
            sampler.total_size,
            place['epoch_size'],
        )
        return 0
    return place['samples'] // (batch_size * sampler.num_replicas)


def restore_random_state(state: dict[str, Any], rank: int) -> None:
    """Put back the random states of this process, where the run had as many."""
    states = state.get('random', [])
    if isinstance(states, list) and rank < len(states):
        set_random_state(states[rank])
