"""Option files that are broken at random: each is accepted, or refused with a message for people."""

import argparse
import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import basicsr.data
import basicsr.models  # noqa: F401  registers what option files name
from basicsr.options.resolve import parse_options, yaml_load

ROOT = Path(__file__).parents[3]
OPTION_FILES = [*(ROOT / 'options').glob('t*/**/*.yml'), ROOT / 'test_MambaIR_SR_x4.yml']  # train and test
FILES = sorted(OPTION_FILES)
OPTIONS = {file.name: yaml_load(file) for file in FILES}
SAME_EVERY_TIME = settings(
    max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 10**30, -(10**400), 10**400, 0.5, 5e3, 1e-4, 1e308, float('nan'), float('inf')]),
    st.integers(-5, 5000),
    st.floats(),
    st.sampled_from(
        ['', '~', 'auto', 'SR', 'MambaIR', 'Adam', '1e-4', '../..', 'a/b', '~nobody/x', '\0', '{}', 'ß' * 300]
    ),
    st.text(st.characters(codec='utf-8'), max_size=8),
    st.dates(),
)
_JUNK = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abtype_', max_size=5), inner, max_size=3),
    max_leaves=6,
)
_CHANGES = st.sampled_from(['drop', 'rename', 'misspell', 'junk', 'junk', 'junk', 'nest', 'flatten', 'odd key', 'move'])


def _sections(opt, path=()):
    yield path
    for key, value in opt.items():
        if isinstance(value, dict):
            yield from _sections(value, (*path, key))


def _at(opt, path):
    for key in path:
        opt = opt[key]
    return opt


def mutate(draw, opt):
    """Change one thing somewhere in `opt`."""
    section = _at(opt, draw(st.sampled_from(list(_sections(opt)))))
    change = draw(_CHANGES)
    if not section or change == 'odd key':
        section[draw(st.sampled_from([1, 2.5, None, True, 'copy', 'model_config', '_x', '_base', 'type']))] = draw(
            _JUNK
        )
        return
    key = draw(st.sampled_from(list(section)))
    if change == 'drop':
        del section[key]
    elif change == 'rename':
        section[draw(st.text('abcdefg_.:', max_size=6))] = section.pop(key)
    elif change == 'misspell':
        at = draw(st.integers(0, len(str(key))))
        section[f'{str(key)[:at]}{draw(st.sampled_from("xe_"))}{str(key)[at + 1 :]}'] = section.pop(key)
    elif change == 'junk':
        section[key] = draw(_JUNK)
    elif change == 'nest':
        section[key] = draw(st.sampled_from([[section[key]], {key: section[key]}, {'type': section[key]}]))
    elif change == 'flatten' and isinstance(section[key], dict):
        section.update(section.pop(key))
    elif change == 'move':
        _at(opt, draw(st.sampled_from(list(_sections(opt)))))[key] = copy.deepcopy(section[key])


def check_message(error):
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    assert text
    assert not re.search(r'Traceback|pydantic|Input should|validation error|Section\b|\bclass\b|NoneType', text), text
    if isinstance(error, ValueError) and 'the options have' in text:
        for line in text.splitlines()[1:]:
            assert re.match(r'  .*: .+ \[.*mutant\.yml(, line \d+)?\]$', line), line


@SAME_EVERY_TIME
@given(st.data())
@pytest.mark.parametrize('name', list(OPTIONS))
def test_mutants_are_accepted_or_refused_in_plain_words(name, tmp_path_factory, data):
    opt = copy.deepcopy(OPTIONS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        mutate(data.draw, opt)
    file = tmp_path_factory.getbasetemp() / 'mutant.yml'
    file.write_text(yaml.safe_dump(opt, allow_unicode=True), encoding='utf-8')
    args = argparse.Namespace(opt=str(file), set=[], launcher='none')
    try:
        parse_options(str(ROOT), data.draw(st.booleans()), args)
    except (ValueError, FileNotFoundError, KeyError) as error:
        check_message(error)


@SAME_EVERY_TIME
@given(st.data())
def test_text_that_is_cut_or_changed_anywhere(tmp_path_factory, data):
    text = data.draw(st.sampled_from(FILES)).read_text(encoding='utf-8')
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.sampled_from([0, 1, 2, 10, len(text)]))
    junk = data.draw(st.sampled_from(['', '\t', ': ', '- ', '{', '[1, ', '&a ', '*a', '!!float ', '!!python/name:os ', '? ', '\x00', '"', "'", '\n', '<<: ', '2020-13-45', '!!int x', '%', '|', '@', '---\n']))  # fmt: skip # noqa: E501
    file = tmp_path_factory.getbasetemp() / 'mutant.yml'
    file.write_text(text[:start] + junk + text[start + length :], encoding='utf-8')
    try:
        parse_options(str(ROOT), False, argparse.Namespace(opt=str(file), set=[], launcher='none'))
    except (ValueError, FileNotFoundError, KeyError) as error:
        check_message(error)


@SAME_EVERY_TIME
@given(st.lists(st.text('abctrainl.=:[]{}~*& 012-', max_size=20), max_size=3))
def test_command_lines_of_any_kind(assignments):
    args = argparse.Namespace(opt=str(ROOT / 'test_MambaIR_SR_x4.yml'), set=assignments, launcher='none')
    try:
        parse_options(str(ROOT), False, args)
    except (ValueError, FileNotFoundError, KeyError) as error:
        assert 'pydantic' not in str(error)
