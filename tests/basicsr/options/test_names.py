"""Names that become part of paths: what would lie outside a run's folders is refused before anything is written."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from basicsr.options.types import name_fault
from basicsr.train import train_pipeline
from tests.small_run import command_line, everything, make_pictures, options

OUTSIDE = ['../out', '..\\out', '/tmp/out', 'a/b', 'a/', 'a\0b', 'a\nb', '\x1b[2J', 'é' * 101]


def with_name(folder: Path, place: str, name: str) -> dict:
    """Options in which `name` stands at `place`."""
    opt = options(folder)
    if place == 'phase':
        opt['datasets'][f'test_{name}'] = opt['datasets'].pop('test_0')
    elif place.startswith('datasets'):
        opt['datasets'][place.split('.')[1]]['name'] = name
    elif place == 'val.suffix':
        opt['val']['suffix'] = name
    elif place == 'val.metrics':
        opt['val']['metrics'][name] = opt['val']['metrics']['psnr']
    elif place == 'compare':
        opt['compare'] = {name: {'network_g': {'type': 'Bicubic', 'upscale': 2}}}
    else:
        opt[place] = name
    return opt


@pytest.mark.parametrize('name', OUTSIDE, ids=repr)
@pytest.mark.parametrize(
    'place', ['name', 'phase', 'datasets.val', 'datasets.test_0', 'val.suffix', 'val.metrics', 'compare']
)
def test_names_that_lead_outside_are_refused_before_anything_is_written(tmp_path, place, name):
    root = make_pictures(tmp_path / 'root')
    (root / 'options.yml').write_text(yaml.safe_dump(with_name(root, place, name)))
    before = everything(tmp_path)
    with pytest.raises(
        ValueError, match=r'the options have 1 mistake:\n.*(names a folder|is part of the names)'
    ) as error:
        train_pipeline(str(root), command_line(root / 'options.yml'))
    section = 'datasets' if place == 'phase' else place
    assert f'\n  {section}' in str(error.value) and 'options.yml, line ' in str(error.value)
    assert everything(tmp_path) == before


@pytest.mark.parametrize('place', ['name', 'datasets.test_0', 'compare'])
def test_names_of_folders_are_not_empty(tmp_path, place):
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(with_name(tmp_path, place, '')))
    with pytest.raises(ValueError, match=r'1 mistake:\n  \S+: (names a folder|is part of .*), so it cannot be empty'):
        train_pipeline(str(tmp_path), command_line(tmp_path / 'options.yml'))


@given(st.text(max_size=60))
def test_what_passes_stays_in_its_folder(name):
    """A property over all texts: a name without a fault is one component of a path, and can be encoded."""
    if name_fault(name) is None:
        path = Path('/a/b') / f'x_{name}.png'
        assert path.parent == Path('/a/b') and path.name.encode() and '\0' not in name
    else:
        assert {'/', '\\'} & set(name) or not name.isprintable() or not name
