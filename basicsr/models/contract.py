"""BasicSR's contract with models of users, which replace methods without calling those that they replace."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from basicsr.options.schema import options_section
from basicsr.options.strategies import asked_strategies, train_options
from basicsr.options.types import field_called

_STEP_OPTIONS = ('amp', 'accumulate', 'grad_clip_norm', 'compile')
_TEST_OPTIONS = ('tile_size', 'tile_overlap', 'tile_mode', 'selfensemble_testing', 'patchwise_testing')
_READ_BY = {
    'pixel_opt': 'init_losses',
    'perceptual_opt': 'init_losses',
    'optim_g': 'setup_optimizers',
    'scheduler': 'setup_schedulers',
}
"""Options of `train`, and the method of this project that reads them."""
_CRITERIA = {'pixel_opt': 'cri_pix', 'perceptual_opt': 'cri_perceptual'}


def is_of_users(kind: type) -> bool:
    """Whether a class of models is no part of this project."""
    return not kind.__module__.startswith('basicsr.models.')


def is_replaced(model: Any, method: str) -> bool:
    """Whether a class outside this project has replaced a method of the model's, which it may call all the same."""
    return is_of_users(next(kind for kind in type(model).__mro__ if method in vars(kind)))


def _is_own(model: Any, method: str) -> bool:
    """Whether a class outside this project has replaced a method, and does not call what it replaces."""
    for kind in type(model).__mro__:
        if method in vars(kind):
            if not is_of_users(kind):
                return False
            if method not in _spoken_of([vars(kind)[method]])[0]:
                return True
    return False


def _spoken_of(functions: Iterable[Any]) -> tuple[set[str], set[str]]:
    """(names of attributes and globals, texts) in the code of functions, and of what they define."""
    codes = [function.__code__ for function in map(inspect.unwrap, functions) if isinstance(function, FunctionType)]
    names: set[str] = set()
    texts: set[str] = set()
    for code in codes:
        names.update(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                codes.append(constant)
            elif isinstance(constant, str | tuple | frozenset):
                texts.update(text for text in ([constant] if isinstance(constant, str) else constant)
                             if isinstance(text, str))  # fmt: skip
    return names, texts


@functools.cache
def _said_by(kind: type) -> tuple[set[str], set[str]]:
    """(names, texts) in the classes of users that a model is made of, and in the functions of their modules."""
    functions: list[Any] = []
    for one in filter(is_of_users, kind.__mro__[:-1]):
        functions += [getattr(member, 'fget', member) for member in vars(one).values()]
        functions += [
            function
            for function in vars(sys.modules.get(one.__module__, object)).values()
            if getattr(function, '__module__', None) == one.__module__
        ]
    return _spoken_of(functions)


@functools.cache
def stored_by(kind: type) -> set[str]:
    """The attributes that the classes of this project give a model."""
    own = [one for one in kind.__mro__[:-1] if not is_of_users(one)]
    functions = [getattr(member, 'fget', member) for one in own for member in vars(one).values()]
    codes = [function.__code__ for function in map(inspect.unwrap, functions) if isinstance(function, FunctionType)]
    instructions = (instruction for code in codes for instruction in dis.get_instructions(code))
    return {instruction.argval for instruction in instructions if instruction.opname == 'STORE_ATTR'}


def _reads(model: Any, option: str) -> bool:
    """Whether the code of users speaks of an option, maybe by its beginning (`f'optim_{label}'`)."""
    texts = _said_by(type(model))[1]
    return option in texts or any(text.endswith('_') and option.startswith(text) for text in texts if len(text) > 1)


def _first_own(model: Any, methods: Iterable[str]) -> str | None:
    return next((name for name in methods if hasattr(type(model), name) and _is_own(model, name)), None)


def refuse_what_is_replaced(model: Any) -> None:
    """Refuse what the options ask for and a model of users, which does it in its own way, would ignore.

    Raises:
        ValueError: Names the option, the model, and the method that stands in the way.
    """
    kind, train = type(model).__name__, train_options(model.opt)
    names = _said_by(type(model))[0]
    own_step = _first_own(model, ('train_step', 'optimize_parameters'))
    own_test = _first_own(model, ('validation', 'nondist_validation', 'test'))
    own_save = _first_own(model, ('save', 'save_weights'))
    for key, strategy in asked_strategies(train).items():
        if strategy.model_can_keep_it:
            if own_step and not {'model_ema', 'net_g_ema'} & names and not _reads(model, key):
                raise ValueError(
                    f'train.{key}: {kind} has a step of its own ({own_step}), which never calls model_ema, so that the '
                    'average would stay where it begins; call self.model_ema(self.ema_decay) there, or leave it out'
                )
        elif own_step:
            raise ValueError(
                f'train.{key}: {kind} has a step of its own ({own_step}), which does not know it; leave it out'
            )
        elif own_test:
            raise ValueError(
                f'train.{key}: {kind} tests by itself ({own_test}), and would not test what {key} publishes; leave it '
                'out, or let SRModel test'
            )
        elif own_save:
            raise ValueError(
                f'train.{key}: {kind} saves by itself ({own_save}), and would not save what {key} publishes; leave it '
                'out, or let SRModel save'
            )
    for key in _STEP_OPTIONS if own_step else ():
        asked = train.get(key) and not (key == 'accumulate' and train[key] == 1)
        if asked and not _reads(model, key):
            raise ValueError(
                f'train.{key}: {kind} has a step of its own ({own_step}), which does not know it; leave it out'
            )


def refuse_what_was_not_made(model: Any) -> None:
    """Refuse strategies that a model of users has not taken up in its own training settings.

    Raises:
        ValueError: Names the option, the model, and what is missing.
    """
    kind = type(model).__name__
    for key, strategy in asked_strategies(model.opt['train']).items():
        if strategy.model_can_keep_it and model.strategy.shadow is None:
            raise ValueError(
                f'train.{key}: {kind} has training settings of its own (init_training_settings), which make no '
                'net_g_ema; leave it out, or make one'
            )
        if not strategy.model_can_keep_it and not model.has_strategy_of_options:
            raise ValueError(
                f'train.{key}: {kind} has training settings of its own (init_training_settings), which do not know it; '
                'leave it out'
            )
        if is_replaced(model, 'setup_optimizers') and not _steps_all(model):
            raise ValueError(
                f'train.{key}: {kind} sets up its optimizers by itself (setup_optimizers), over other weights than '
                'these; leave it out'
            )


def _steps_all(model: Any) -> bool:
    """Whether the optimizers step all that the strategy trains at some time."""
    if model.strategy.has_own_parameters:  # they are not there yet
        return False
    stepped = {id(one) for optimizer in model.optimizers for group in optimizer.param_groups for one in group['params']}
    trained_later = [one for one in model.strategy.parameters().values() if not one.requires_grad]
    return all(id(one) in stepped for one in trained_later)


def ignored_options(model: Any) -> Iterator[str]:
    """A line for each option that a model of users, by all that its code says, does not heed; none for other models."""
    if not is_of_users(type(model)):
        return
    kind, val, logger = type(model).__name__, model.opt.get('val') or {}, model.opt.get('logger') or {}
    train = (model.opt.get('train') or {}) if model.is_train else {}
    own_test = _test_in_the_way(model)
    for key in _TEST_OPTIONS if own_test else ():
        if val.get(key) is not None and not _reads(model, key):
            yield f'val.{key}: without effect: {kind} tests by itself ({own_test})'
    yield from _unread(model, kind, train)
    own_step = _first_own(model, ('train_step', 'optimize_parameters'))
    if own_step and train.get('max_bad_steps') is not None and not _reads(model, 'max_bad_steps'):
        yield (
            f'train.max_bad_steps: without effect: {kind} has a step of its own ({own_step}); a loss that is NaN ends '
            'the run at once'
        )
    for key in ('channels_last', 'freeze_batch_statistics'):
        if train.get(key) and not hasattr(model, 'strategy') and not _reads(model, key):
            yield f'train.{key}: without effect: {kind} builds its networks by itself'
    if model.is_train and _is_own(model, 'save'):
        in_save = _spoken_of([vars(next(one for one in type(model).__mro__ if 'save' in vars(one)))['save']])
        if logger.get('save_checkpoint_freq') and 'save_training_state' not in _said_by(type(model))[0]:
            yield (
                f'logger.save_checkpoint_freq: {kind} saves by itself (save), and writes no training state: a run that '
                'is stopped cannot go on'
            )
        if model.param_key == 'params_ema' and not any('net_g_ema' in spoken for spoken in in_save):
            yield f'train.ema_decay: {kind} saves by itself (save), and leaves net_g_ema out'


def _unread(model: Any, kind: str, train: dict[str, Any]) -> Iterator[str]:
    """Options of `train` that nothing reads, or that make a criterion which no step uses."""
    names = _said_by(type(model))[0]
    fields = options_section().model_fields['train'].annotation
    own_step = _first_own(model, ('train_step', 'optimize_parameters'))
    for key, value in train.items():
        if value is None or _reads(model, key):
            continue
        if key in _READ_BY:
            method = _READ_BY[key]
            called = getattr(model, 'has_strategy_of_options', False) or method in names
            if not hasattr(type(model), method) or _is_own(model, method) or not called:
                yield f'train.{key}: without effect: {kind} has training settings of its own, which do not read it'
            elif own_step and key in _CRITERIA and _CRITERIA[key] not in names:
                yield (
                    f'train.{key}: without effect: {kind} has a step of its own ({own_step}), which does not use '
                    f'self.{_CRITERIA[key]}'
                )
        elif field_called(fields, key) is None:
            yield f'train.{key}: without effect: nothing in {kind} reads it'


def _test_in_the_way(model: Any) -> str | None:
    """The method by which a model of users tests without this project's tiles and self-ensemble."""
    if not hasattr(type(model), 'restore'):
        return 'test'
    names = _said_by(type(model))[0]
    if 'restore' in names:
        return None
    if _is_own(model, 'test'):
        return 'test'
    return _first_own(model, ('validation', 'nondist_validation')) if 'test' not in names else None
