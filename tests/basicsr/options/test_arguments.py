"""One contract of sections with a `type`: what a signature says is checked and documented, and paths are resolved."""

import argparse
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import pytest
import yaml
from torch import nn
from torch.utils.data import Dataset

import basicsr.data
import basicsr.models  # noqa: F401  registers what option files name
from basicsr.archs import build_network
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.options.choices import CHOICES, arguments_of, described_arguments, path_arguments
from basicsr.options.resolve import check_files, missing_data, parse_options
from basicsr.options.types import fields_of, in_words
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY, parameters_of

OWN = [
    pytest.param(choice, known.registry.get(name), id=f'{choice}-{name}')
    for choice, known in CHOICES.items()
    for name in sorted(known.registry.keys())
    if choice != 'model' and getattr(known.registry.get(name), '__module__', '').startswith('basicsr.')
]

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@pytest.mark.parametrize(('choice', 'factory'), OWN)
def test_every_argument_has_a_type_and_a_description(choice, factory):
    described = described_arguments(factory)
    given = {*CHOICES[choice].given, 'self'}
    arguments = [one for one in parameters_of(factory) if one.name not in given and one.kind not in VARIABLE]
    untyped = [one.name for one in arguments if one.annotation is one.empty or isinstance(one.annotation, str)]
    assert not untyped, f'{factory.__name__}: no type, or one that cannot be evaluated'
    missing = [one.name for one in arguments if not described.get(one.name)]
    assert not missing, f'{factory.__name__}: not in `Args:` of its docstring'


@pytest.fixture
def registered(monkeypatch):
    def register(registry, kind):
        monkeypatch.setitem(registry._objects, kind.__name__, kind)
        arguments_of.cache_clear()
        return kind.__name__

    return register


@pytest.fixture
def parse(tmp_path):
    def parse(*changes, is_train=False, **sections):
        opt = {
            **{'name': 'trial', 'model_type': 'SRModel', 'scale': 2, 'network_g': {'type': 'Bicubic', 'upscale': 2}},
            'datasets': {'test': {'type': 'PairedImageDataset', 'dataroot_gt': 'a', 'dataroot_lq': 'b'}},
        }
        (tmp_path / 'opt.yml').write_text(yaml.safe_dump({**opt, **sections}, sort_keys=False))
        args = argparse.Namespace(opt=str(tmp_path / 'opt.yml'), set=list(changes), launcher='none')
        return parse_options(str(tmp_path), is_train, args)[0]

    return parse


# Data sets


class TableDataset(Dataset):
    """Rows of a table.

    Args:
        csv: The table.
        root: Where its files are.
        kind: What a row is.
        more: Other tables.
        scale: Of sizes.
        phase: train, val or test.
        cache: How rows are kept.
    """

    def __init__(
        self,
        csv: Path,
        root: str | os.PathLike[str] = '.',
        kind: Literal['a', 'b'] = 'a',
        more: Sequence[Path] = (),
        *,
        scale: int,
        phase: str,
        cache: 'Cache | None' = None,
    ):
        pass

    @staticmethod
    def check_options(given):
        if given['phase'] == 'test' and given['scale'] % 2:
            yield 'kind', f'odd: {given["scale"]}'


class Cache(TypedDict):
    """How rows are kept.

    Attributes:
        size: Rows.
    """

    size: int


def test_a_users_signature_is_checked_as_ours_is(parse, registered):
    kind = registered(DATASET_REGISTRY, TableDataset)
    opt = parse(datasets={'test': {'type': kind, 'csv': 'table.csv', 'cache': {'size': 1e3}, 'seen': True}})
    assert opt['datasets']['test']['scale'] == 2 and opt['datasets']['test']['cache'] == {'size': 1000}
    wrong = {'type': kind, 'root': 3, 'kind': 'c', 'mroe': ['x'], 'phase': 'val', 'cache': {'siez': 3}, 'seen': 1}
    with pytest.raises(ValueError) as error:
        parse(datasets={'test': wrong})
    text = str(error.value)
    for part in (
        'test.csv: missing; it must be a path',
        'test.root: must be a path, not 3',
        "test.kind: must be a or b, not 'c'",
        "test.mroe: unknown option; did you mean 'more'?",
        'test.phase: unknown option',
        "test.cache.siez: unknown option; did you mean 'size'?",
        'test.cache.size: missing; it must be a whole number',
        'test.seen: must be true or false, not 1',
    ):
        assert f'datasets.{part}' in text
    assert 'the options have 8 mistakes' in text
    with pytest.raises(ValueError, match=r'the options have 1 mistake:\n  datasets\.test\.kind: odd: 3'):
        parse('scale=3', datasets={'test': {'type': kind, 'csv': 'a'}})


def test_the_scale_is_that_of_the_top_level(parse, registered):
    kind = registered(DATASET_REGISTRY, TableDataset)
    table = {'test': {'type': kind, 'csv': 'a'}}
    with pytest.raises(ValueError, match=r'1 mistake:\n  scale: missing; datasets\.test needs it'):
        parse('scale=~', datasets=table)
    assert parse('scale=~', 'datasets.test.scale=4', datasets=table)['datasets']['test']['scale'] == 4
    with pytest.raises(ValueError, match=r'datasets\.test\.scale: must be that of the top level, 2, not 4'):
        parse('datasets.test.scale=4', datasets=table)


def test_paths_of_users_start_at_the_project_and_must_be_there(parse, registered, tmp_path):
    kind = registered(DATASET_REGISTRY, TableDataset)
    assert path_arguments('dataset', TableDataset) == ('csv', 'root', 'more')
    opt = parse(datasets={'test': {'type': kind, 'csv': 'table.csv', 'root': '~', 'more': ['x.csv', '/y.csv']}})
    assert opt['datasets']['test']['csv'] == str(tmp_path / 'table.csv')
    assert opt['datasets']['test']['root'] == str(Path.home())
    (tmp_path / 'table.csv').touch()
    expected = [f'datasets.test.more[0]: {tmp_path / "x.csv"}', 'datasets.test.more[1]: /y.csv']
    assert missing_data(opt) == expected
    with pytest.raises(FileNotFoundError, match=r'not there:\n  datasets\.test\.more\[0\]'):
        check_files(opt)


def test_several_folders(parse, tmp_path):
    both = ['datasets.test.dataroot_gt=[a, c]', 'datasets.test.dataroot_lq=[b, d]']
    opt = parse(*both)
    assert opt['datasets']['test']['dataroot_gt'] == [str(tmp_path / 'a'), str(tmp_path / 'c')]
    for name in 'abd':
        (tmp_path / name).mkdir()
    assert missing_data(opt) == [f'datasets.test.dataroot_gt[1]: {tmp_path / "c"}']
    with pytest.raises(ValueError, match=r'datasets\.test\.dataroot_lq: must name as many folders as .*, 2, not 1'):
        parse(both[0])
    with pytest.raises(ValueError, match=r'dataroot_gt: must be a path or a list of paths, not 3'):
        parse('datasets.test.dataroot_gt=3')
    with pytest.raises(ValueError, match=r'dataroot_gt: must be a path or a list of paths'):
        parse('datasets.test.dataroot_gt=[a, 3]')


class WholeSection(Dataset):
    def __init__(self, opt):
        self.opt = opt


class Extended(PairedImageDataset):
    """Takes a section whose keys only it knows, although what it extends checks its own."""

    def __init__(self, opt):
        super().__init__(opt)


@pytest.mark.parametrize('factory', [WholeSection, Extended])
def test_a_data_set_of_basicsrs_kind_is_not_checked_and_that_is_said_once(parse, registered, logged, tmp_path, factory):
    kind = registered(DATASET_REGISTRY, factory)
    section = {'type': kind, 'dataroot_gt': ['a'], 'sigma': [1, 2], 'meta_info': '/b', 'gt_sise': 3, 'noise': 4}
    opt = parse(datasets={'test_1': section, 'val': {**section, 'name': 'v'}, 'test_3': section | {'name': 'w'}})
    assert opt['datasets']['val'] == {
        **{'type': kind, 'dataroot_gt': [str(tmp_path / 'a')], 'sigma': [1, 2], 'meta_info': '/b', 'gt_sise': 3},
        **{'noise': 4, 'name': 'v', 'phase': 'val', 'scale': 2},
    }
    assert len(logged.warnings()) == 1
    assert logged.warnings()[0].startswith(
        'datasets.test_1: not checked beyond what every data set has (and datasets.val, datasets.test_3): '
        f'{kind} takes its whole section as `opt`'
    )
    with pytest.raises(ValueError, match=r'test\.batch_size_per_gpu: must be a whole number of at least 1, not 0'):
        parse(datasets={'test': {**section, 'batch_size_per_gpu': 0}})


def test_ours_say_nothing_of_the_kind(parse, logged):
    parse()
    assert not logged.warnings()


# Networks, losses, metrics


class Pretrained(nn.Module):
    """A network that reads a file.

    Args:
        weights: The file, or whether to take the usual one.
        tables: Others.
    """

    def __init__(self, weights: bool | str | os.PathLike = False, tables: list[Path] | None = None):
        super().__init__()
        self.weights, self.tables = weights, tables


def of_a_table(img, img2, table: Path, **kwargs):
    """A metric."""
    return 0


def test_paths_of_every_section_with_a_type(parse, registered, tmp_path):
    kind = registered(ARCH_REGISTRY, Pretrained)
    metric = registered(METRIC_REGISTRY, of_a_table)
    network = {'type': kind, 'weights': 'a.pth', 'tables': ['b', '/c']}
    opt = parse(
        network_g=network,
        compare={'other': {'network_g': {'type': kind, 'weights': True}}},
        val={'metrics': {'m': {'type': metric, 'table': 't.csv'}}},
        datasets={'test': {'type': 'SingleImageDataset', 'dataroot_lq': '.'}},
    )
    assert opt['network_g'] == {
        **{'type': kind, 'weights': str(tmp_path / 'a.pth')},
        'tables': [str(tmp_path / 'b'), '/c'],
    }
    assert opt['compare']['other']['network_g']['weights'] is True
    assert opt['val']['metrics']['m']['table'] == str(tmp_path / 't.csv')
    (tmp_path / 'b').touch()
    with pytest.raises(FileNotFoundError) as error:
        check_files(opt)
    assert str(error.value).splitlines() == [
        'not there:',
        f'  network_g.weights: {tmp_path / "a.pth"}',
        '  network_g.tables[1]: /c',
        f'  val.metrics.m.table: {tmp_path / "t.csv"}',
    ]
    net = build_network(opt['network_g'])
    assert net.tables == [tmp_path / 'b', Path('/c')], 'what wants a Path gets one'
    assert net.weights == str(tmp_path / 'a.pth'), 'and what takes text gets that'


def test_what_types_are_called(registered):
    words = {
        key: in_words(field.annotation, field.metadata)
        for key, (_, field) in fields_of(arguments_of('dataset', TableDataset)).items()
    }
    assert words['csv'] == words['root'] == 'a path' and words['more'] == 'a list of paths'
    assert words['cache'] == 'a section (`key: value` lines)' and words['kind'] == 'a or b'
    cache = fields_of(arguments_of('dataset', TableDataset))['cache'][1].annotation
    assert fields_of(cache)['size'][1].description == 'Rows.'
    assert 'Of sizes. Default: that of the top level.' in [
        field.description for _, field in fields_of(arguments_of('dataset', TableDataset)).values()
    ]
