"""What YAML of any kind becomes: values that are what they look like, or one error with its place, at once."""

import math
import os
import time
from pathlib import Path

import pytest
import yaml

from basicsr.options.file import load_options, override, yaml_load
from basicsr.options.loader import LONGEST, read
from basicsr.options.resolve import dict2str


def refused(text: str) -> str:
    """What is said of a text, which must be said at once."""
    started = time.monotonic()
    with pytest.raises(ValueError) as error:
        read(text, 'o.yml')
    assert time.monotonic() - started < 5
    assert len(str(error.value)) < 400 and '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        *[('1e-4', 1e-4), ('5e3', 5000.0), ("'1e-4'", '1e-4'), ('1_000', 1000), ('0x10', 16), ('0b11', 3), ('0', 0)],
        *[('-3', -3), ('0.5', 0.5), ('.5', 0.5), ('0e0', 0.0), ('0.0', 0.0), ('.inf', math.inf), ('~', None)],
        *[('yes', True), ('off', False), ('2024-01-01', '2024-01-01'), ("'020'", '020'), ('"1:30"', '1:30')],
        *[('08', '08'), ('x' * 1000, 'x' * 1000)],
    ],
)
def test_values(text, value):
    assert read(f'a: {text}', 'o.yml')[0] == {'a': value}
    assert read(f'a: [{text}]', 'o.yml')[0] == {'a': [value]}
    kept = yaml_load(dict2str({'a': value, 'b': 1}))
    assert kept == {'a': value, 'b': 1} and type(kept['a']) is type(value), 'what a run keeps reads as it was'


@pytest.mark.parametrize('text', ['1e5', '1E5', '-1e-3', '020', '1:30', '2024-01-01', '0x1', 'yes', '~', '1_0', '<<'])
def test_a_text_that_looks_like_something_else_stays_a_text(text):
    assert yaml_load(dict2str({'name': text, 'b': 1})) == {'name': text, 'b': 1}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('020', '020 is 16 in YAML, which takes it for octal: write 20, or "020" if it is a text'),
        ('-017', '-017 is -15 in YAML, which takes it for octal: write -17, or "-017" if it is a text'),
        ('0_20', '0_20 is 16 in YAML'),
        ('1:30', '1:30 is 90 in YAML, which counts it in sixties: write 90, or "1:30" if it is a text'),
        ('1:30:00', '1:30:00 is 5400 in YAML'),
        ('1:30.5', '1:30.5 is 90.5 in YAML'),
        ('1e400', "'1e400' is too large a number"),
        ('-1.5e+999', "'-1.5e+999' is too large a number"),
        ('1e-400', "'1e-400' is too small a number: it would be 0"),
        ('9' * 5000, 'is too large a number'),
        ('0x' + 'f' * 5000, 'is too large a number'),
        ('!!int x', "'x' is no int"),
        ('!!float x', "'x' is no float"),
        ('"\\ud800"', "'\\ud800' is no text"),
        ('!!python/object/apply:os.getcwd []', 'could not determine a constructor for the tag'),
        ('*b', "found undefined alias 'b'"),
    ],
)
def test_what_is_no_value(text, message):
    said = refused(f'train:\n  total_iter: {text}\n')
    assert said.startswith('o.yml, line 2: ') and message in said
    if 'alias' not in message and 'constructor' not in message:
        assert said.startswith('o.yml, line 2: train.total_iter: '), 'the place'
    assert message in refused(f'a: 1\nb: [3, {text}]')


LAUGHS = 'a0: &a0 [x, x]\n' + ''.join(f'a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 60))
MERGES = 'a0: &a0 {x: 1}\n' + ''.join(f'a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], z{n}: 1}}\n' for n in range(1, 60))
TOO_MUCH = {
    'laughs': (LAUGHS, 'more than 100,000 values; aliases repeat too much'),
    'merges': (MERGES, 'more than 100,000 values; aliases repeat too much'),
    'lists': ('a: ' + '[' * 300 + ']' * 300, 'sections are nested too deeply, more than 40 levels'),
    'sections': ('{a: ' * 300 + '}' * 300, 'sections are nested too deeply, more than 40 levels'),
    'indented': ('\n'.join(' ' * n + 'a:' for n in range(500)), 'sections are nested too deeply, more than 40 levels'),
    'brackets': ('[' * 20000, 'sections are nested too deeply, more than 40 levels'),
    'itself': ('a: &a [1, *a]', 'a section cannot hold itself'),
    'its own section': ('a: &a {b: {c: *a}}', 'a section cannot hold itself'),
    'long': ('a: ' + 'x' * LONGEST, 'letters are too many for options'),
    'twice': ('a: 1\nb: 2\na: 3', "line 3: duplicate key 'a'"),
    'twice in quotes': ('a: 1\n"a": 3', "line 2: duplicate key 'a'"),
    'tabs': ('a:\n\tb: 1', "found character '\\t' that cannot start any token"),
    'documents': ('a: 1\n---\nb: 2', 'found another document'),
    'NUL': ('a: \0', 'unacceptable character #x0000'),
    'list as a key': ('? [1]\n: 2', 'found unhashable key'),
}


@pytest.mark.parametrize('kind', list(TOO_MUCH))
def test_texts_that_are_none_or_too_much(kind):
    text, message = TOO_MUCH[kind]
    assert message in refused(text)


def test_aliases_and_merges_that_end_are_right():
    value, lines = read('a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: [*a, *a]\n', 'o.yml')
    assert value == {'a': {'x': 1, 'y': 2}, 'b': {'x': 1, 'y': 3}, 'c': [{'x': 1, 'y': 2}] * 2}
    assert lines['b', 'y'] == 4
    deep = 'a: ' + '[' * 30 + ']' * 30
    assert read(deep, 'o.yml')[0] == yaml.safe_load(deep)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'holds no options'),
        (b'# nothing\n', 'holds no options'),
        (b'- a\n- b\n', 'holds no options'),
        (b'word', 'holds no options'),
        ('a: 1'.encode('utf-16'), 'is no text in UTF-8'),
        ('a: 1'.encode('utf-16-le'), 'unacceptable character #x0000'),
        ('a: ä'.encode('latin-1'), 'is no text in UTF-8'),
        (b'\x89PNG\r\n\x1a\n' + bytes(100), 'is no text in UTF-8'),
        (b'a: ' + b'x' * 2**21, 'is no option file: it has 2,097,155 bytes'),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / 'o.yml').write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_options(tmp_path / 'o.yml')
    assert str(tmp_path / 'o.yml') in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_byte_order_mark_is_none_of_the_first_key(tmp_path):
    (tmp_path / 'o.yml').write_bytes(b'\xef\xbb\xbfname: x\n')
    assert load_options(tmp_path / 'o.yml')[0] == {'name': 'x'}


def test_bases_that_double_are_read_once_each(tmp_path):
    (tmp_path / '0.yml').write_text('name: x\nlist: [1, 2]\ntrain: {total_iter: 5}\n')
    for n in range(1, 26):
        (tmp_path / f'{n}.yml').write_text(f'_base_: [{n - 1}.yml, {n - 1}.yml]\nk{n}: {n}\ntrain: {{t{n}: 1}}\n')
    started = time.monotonic()
    opt, places = load_options(tmp_path / '25.yml')
    assert time.monotonic() - started < 5
    assert opt['name'] == 'x' and opt['k7'] == 7 and len(opt['train']) == 26
    assert places['train', 't9'].endswith('9.yml, line 3') and places['list', 1].endswith('0.yml, line 2')
    again = load_options(tmp_path / '0.yml')[0]
    override(opt, ['train.total_iter=9'])
    assert again['train'] == {'total_iter': 5}


def test_one_base_of_two_files_is_not_changed_by_the_first(tmp_path):
    (tmp_path / 'base.yml').write_text('a: {x: 1, y: 1}\n')
    (tmp_path / 'one.yml').write_text('_base_: base.yml\na: {x: 2}\n')
    (tmp_path / 'two.yml').write_text('_base_: base.yml\na: {y: 3}\n')
    (tmp_path / 'top.yml').write_text('_base_: [one.yml, two.yml]\n')
    assert load_options(tmp_path / 'top.yml')[0] == {'a': {'x': 1, 'y': 3}}


def test_chains_of_bases_that_do_not_end(tmp_path):
    for n in range(200):
        (tmp_path / f'{n}.yml').write_text(f'_base_: {n + 1}.yml\n')
    with pytest.raises(ValueError, match=r'0\.yml inherits through more than 30 files'):
        load_options(tmp_path / '0.yml')
    (tmp_path / 'a.yml').write_text('_base_: b.yml\n')
    (tmp_path / 'b.yml').write_text('_base_: a.yml\n')
    with pytest.raises(ValueError, match=r'a\.yml inherits from itself: a\.yml -> b\.yml -> a\.yml'):
        load_options(tmp_path / 'a.yml')
    os.symlink('s.yml', tmp_path / 'link.yml')
    (tmp_path / 's.yml').write_text('_base_: link.yml\n')
    with pytest.raises(ValueError, match=r's\.yml inherits from itself'):
        load_options(tmp_path / 's.yml')


@pytest.mark.parametrize(
    ('base', 'message'),
    [
        ('nowhere.yml', 'there is no option file .*nowhere.yml .`_base_` of .*top.yml.'),
        ('.', 'is a folder, not an option file'),
        ("''", 'is a folder, not an option file'),
        ('"a\\0b"', 'names no file'),
        ('x' * 3000, 'names no'),
        ('3', 'line 1: _base_ must be a file, or a list of files'),
        ('{a: b}', 'line 1: _base_ must be a file, or a list of files'),
        ('[3]', 'line 1: _base_ must be a file, or a list of files'),
    ],
)
def test_bases_that_are_no_files(tmp_path, base, message):
    (tmp_path / 'top.yml').write_text(f'_base_: {base}\nname: x\n')
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_options(tmp_path / 'top.yml')
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('a.b=020', '--set a.b=020, line 1: 020 is 16 in YAML'),
        ('a.b=[020]', r'--set a.b=\[020\], line 1: 0: 020 is 16 in YAML'),
        ('a.b=1:30', '1:30 is 90 in YAML'),
        ('a..b=1', '--set a..b=1: write it as a.b=value'),
        ('=1', '--set =1: write it as a.b=value'),
        ('a.b', '--set a.b: write it as a.b=value'),
        ('', '--set : write it as a.b=value'),
        ('a.n.c=1', '--set a.n.c=1: n is no section of the options'),
        ('_base_=x.yml', 'a file inherits, the command line does not'),
        ('a.b=&x [*x]', 'a section cannot hold itself'),
        ('a.b=[', '--set a.b=., line 1: '),
        ('a.b=' + '[' * 300 + ']' * 300, 'nested too deeply'),
        ('.'.join('a' * 1000) + '=1', 'there are no sections so deep'),
        ('a.b=' + 'x' * LONGEST + '!', 'letters are too many for options'),
    ],
)
def test_the_command_line(change, message):
    opt = {'a': {'n': 5}}
    with pytest.raises(ValueError, match=message):
        override(opt, [change])
    assert opt == {'a': {'n': 5}}, 'nothing is changed'


def test_shipped_option_files_hold_none_of_these():
    for file in Path(__file__).parents[3].glob('options/**/*.yml'):
        assert yaml_load(file), file
