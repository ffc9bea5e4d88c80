"""DomainFolderDataset, on archives that are made here."""

import itertools
import logging
import multiprocessing
import os
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from basicsr.data import build_dataloader, build_dataset, decoding
from basicsr.data.data_sampler import SeededDataset
from basicsr.data.domain_folder_dataset import DomainFolderDataset
from basicsr.data.samples import first_batch, size_of, sizes_of
from basicsr.data.transform_lists import IMAGENET_MEAN, IMAGENET_STD
from basicsr.options.check import check_section
from basicsr.options.choices import section_for

DOMAINS, CLASSES = ('art', 'photo', 'sketch'), ('cat', 'dog')
COUNT = 5
"""Pictures of each class of each domain."""


def picture(path: Path, height: int = 24, width: int = 32, mode: str = 'RGB', **how) -> Path:
    """A picture of its own content for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(str(path).encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path, **how)
    return path


def archive(root: Path, domains=DOMAINS, classes=CLASSES, count=COUNT, between='') -> Path:
    for domain, name, number in itertools.product(domains, classes, range(count)):
        picture(root / domain / between / name / f'{number}.png')
    return root


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An archive that no test changes."""
    return archive(tmp_path_factory.mktemp('archive'))


@pytest.fixture
def own(whole, tmp_path):
    """An archive to change."""
    return Path(shutil.copytree(whole, tmp_path / 'own'))


def below(root, paths):
    return [Path(path).relative_to(root).as_posix() for path in paths]


def made(root, **options) -> DomainFolderDataset:
    return DomainFolderDataset(root, **{'image_size': 16, **options})


# Domains, classes, phases


def test_what_the_phases_get(whole):
    train, val, test = (made(whole, phase=phase, test_domains=['sketch']) for phase in ('train', 'val', 'test'))
    assert train.domains == val.domains == ['art', 'photo'] and test.domains == ['sketch']
    assert train.classes == val.classes == test.classes == ['cat', 'dog']
    assert (len(train), len(val), len(test)) == (16, 4, 10)
    assert not set(train.paths) & set(val.paths)
    everything = [f'{domain}/{name}/{number}.png' for domain in DOMAINS for name in CLASSES for number in range(COUNT)]
    assert sorted(below(whole, train.paths + val.paths + test.paths)) == everything
    for dataset in (train, val, test):
        for index, path in enumerate(below(whole, dataset.paths)):
            domain, name, _ = path.split('/')
            assert dataset.domains[dataset.groups[index]] == domain
            assert dataset.classes[dataset.labels[index]] == name
            assert dataset.names[index] == path.removesuffix('.png')


def test_a_test_of_the_training_domains_has_their_held_out_part(whole):
    val = made(whole, phase='val', train_domains=['photo', 'art'])
    seen = made(whole, phase='test', train_domains=['photo', 'art'])
    assert seen.domains == ['photo', 'art'] and seen.paths == val.paths and seen.groups == val.groups


def test_one_domain_as_text_and_all_of_them(whole):
    assert made(whole, phase='test', test_domains='art').domains == ['art']
    assert made(whole).domains == list(DOMAINS)
    assert made(whole, phase='test', test_domains=list(DOMAINS)).domains == list(DOMAINS)
    assert made(whole, train_domains='art', test_domains=['photo', 'sketch']).domains == ['art']


def test_items(whole):
    dataset = made(whole, phase='val', image_size=[12, 20])
    item = dataset[3]
    assert item['image'].shape == (3, 12, 20) and item['image'].dtype == torch.float32
    assert (item['label'], item['domain'], item['path']) == (dataset.labels[3], dataset.groups[3], dataset.paths[3])
    batch = next(iter(build_dataloader(dataset, {'phase': 'val'})))
    assert batch['image'].shape == (6, 3, 12, 20)
    assert batch['label'].dtype == batch['domain'].dtype == torch.int64
    assert batch['label'].tolist() == dataset.labels and batch['path'] == dataset.paths


def test_values_are_normalised(own):
    Image.new('RGB', (8, 8), (255, 0, 51)).save(own / 'art' / 'cat' / '0.png')
    options = {'phase': 'test', 'test_domains': 'art'}

    def values(**more):
        return made(own, **options, **more)[0]['image'].mean((1, 2))

    colours = torch.tensor([1, 0, 0.2])
    assert torch.allclose(values(), (colours - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD), atol=1e-5)
    assert torch.allclose(values(mean=[0, 0, 0], std=[1, 1, 2]), torch.tensor([1, 0, 0.1]), atol=1e-5)


# The split


def test_the_split_holds_out_a_share_of_each_class(tmp_path):
    for name, count in (('ant', 1), ('bee', 2), ('cat', 3), ('dog', 20), ('elk', 41)):
        archive(tmp_path, ['art'], [name], count)
    train, val = made(tmp_path, held_out=0.2), made(tmp_path, phase='val', held_out=0.2)
    assert [train.labels.count(label) for label in range(5)] == [1, 1, 2, 16, 33]
    assert [val.labels.count(label) for label in range(5)] == [0, 1, 1, 4, 8]
    most = made(tmp_path, held_out=0.99)
    assert [most.labels.count(label) for label in range(5)] == [1, 1, 1, 1, 1]


def test_the_split_is_a_function_of_names_and_seed_alone(whole, tmp_path, monkeypatch):
    first = below(whole, made(whole, phase='val').paths)
    elsewhere = archive(tmp_path / 'elsewhere', [*DOMAINS, 'another'])
    for path in elsewhere.rglob('*.png'):
        picture(path, height=9)  # other content
    moved = below(elsewhere, made(elsewhere, phase='val').paths)
    assert [path for path in moved if not path.startswith('another')] == first
    listing = os.scandir

    def shuffled(path):
        entries = list(listing(path))
        random.Random(1).shuffle(entries)
        return _Entries(entries)

    monkeypatch.setattr(os, 'scandir', shuffled)
    assert below(whole, made(whole, phase='val').paths) == first
    assert below(whole, made(whole, phase='val', split_seed=1).paths) != first


class _Entries(list):
    def __enter__(self):
        return iter(self)

    def __exit__(self, *error):
        pass


def test_the_split_is_known(whole):
    """What was held out must not change with a version, or trainings would be validated on what they were fed."""
    found = below(whole, made(whole, phase='val').paths)
    assert found == KNOWN_SPLIT


KNOWN_SPLIT = [
    *('art/cat/2.png', 'art/dog/3.png', 'photo/cat/1.png'),
    *('photo/dog/2.png', 'sketch/cat/2.png', 'sketch/dog/1.png'),
]


def test_another_classs_pictures_do_not_change_the_split(own):
    before = below(own, made(own, phase='val').paths)
    archive(own, ['art'], ['dog'], 9)
    after = below(own, made(own, phase='val').paths)
    assert [path for path in after if not path.startswith('art/dog')] == [
        path for path in before if not path.startswith('art/dog')
    ]


# Mistakes

FLOAT = {'ToDtype': {'dtype': 'float32', 'scale': True}}
ONE_CHANNEL = {'Normalize': {'mean': [0.5], 'std': [1]}}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'test_domains': ['scetch']}, r"test_domains: no domain is called 'scetch'; did you mean 'sketch'\? In .* are "
                                       r'art, photo, sketch'),
        ({'train_domains': ['paint']}, r"train_domains: no domain is called 'paint'\. In .* are art, photo, sketch"),
        ({'test_domains': list(DOMAINS)}, 'test_domains: no domain is left to train on: art, photo, sketch are all of'),
        ({'test_domains': ['art'], 'train_domains': ['art']}, 'test_domains: art is in train_domains, too'),
        ({'train_domains': ['art', 'art']}, 'train_domains: names art twice'),
        ({'train_domains': []}, 'train_domains: must name a domain; leave it out'),
        ({'mean': [0, 0]}, 'mean: must have 3 numbers, for red, green and blue, not 2'),
        ({'transforms': ['RandomCorp']}, "transforms: entry 1: .* has no transform 'RandomCorp' .*'RandomCrop'"),
        ({'transforms': [{'Resize': {'size': 8, 'sise': 8}}]}, "entry 1, Resize: has no argument 'sise'; .* 'size'"),
        ({'transforms': ['ToImage', {'RandomCrop': None}]}, 'entry 2, RandomCrop: .*size'),
        ({'transforms': [{'ToDtype': {'dtype': 'float23'}}]}, "dtype must be a type of torch .*'float23'"),
        ({'transforms': [{'Resize': {'size': 8, 'interpolation': 'bicubik'}}]}, "interpolation is one of .*'bicubic'"),
        ({'transforms': ['MixUp']}, 'entry 1: MixUp mixes the pictures and labels of a batch'),
        ({'transforms': [3]}, 'entry 1: must be a name'),
        ({'transforms': [{'RandomApply': {'transforms': [{'Blur': {}}]}}]}, "entry 1, RandomApply, entry 1: .*'Blur'"),
        ({'transforms': [ONE_CHANNEL], 'std': [1, 1, 1]}, 'std: goes with no Normalize'),
        ({'transforms': [{'RandomCrop': 9999}]}, 'transforms: a picture of 2000x2600 cannot pass'),
        ({'transforms': ['Grayscale', FLOAT, ONE_CHANNEL]}, r'must make a float tensor \(3, h, w\) .* not \(1, '),
    ],
)  # fmt: skip
def test_wrong_options(whole, options, message):
    with pytest.raises(ValueError, match=message):
        made(whole, **options)


def test_mistakes_that_need_no_files_are_found_without_them():
    section = {
        **{'type': 'DomainFolderDataset', 'dataroot': '/nowhere', 'train_domains': 'art', 'test_domains': ['art']},
        'transforms': [{'RandomFlip': {}}],
    }
    assert dict(DomainFolderDataset.check_options(section)) == {
        'test_domains': 'art is in train_domains, too; take it out of one of the lists',
        'transforms': "entry 1: torchvision.transforms.v2 has no transform 'RandomFlip' for single pictures; did "
        "you mean 'RandomVerticalFlip'?",
    }
    assert not list(DomainFolderDataset.check_options({'dataroot': '/nowhere', 'test_domains': 'art'}))


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        *[('held_out', 0), ('held_out', 1), ('image_size', 0), ('image_size', [8]), ('image_size', [8, 8, 8])],
        *[('split_seed', -1), ('std', [0, 1, 1]), ('mean', [0]), ('cache', 'yes'), ('phasee', 'val')],
    ],
)
def test_values_out_of_bounds_are_mistakes_of_the_file(key, value):
    section = {'type': 'DomainFolderDataset', 'dataroot': 'a', key: value}
    with pytest.raises(ValueError, match=rf'datasets\.train\.{key}'):
        check_section(section_for('dataset', section), section, 'datasets.train')


def test_what_is_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataroot: there is no folder .*nowhere' \(absolute path"):
        made(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='but has no folders; give the one into which the archive was unpacked'):
        made(tmp_path)
    (tmp_path / 'art' / 'cat').mkdir(parents=True)
    with pytest.raises(ValueError, match='but no picture is in its folders art'):
        made(tmp_path)
    picture(tmp_path / 'cat' / '1.png')
    with pytest.raises(ValueError, match="but its folders, such as 'cat', hold pictures themselves"):
        made(tmp_path)


def test_an_empty_domain(own):
    (own / 'clay' / 'cat').mkdir(parents=True)
    assert made(own).domains == list(DOMAINS)
    with pytest.raises(
        ValueError, match=r"test_domains: the domain 'clay' has no picture below its classes, in '.*clay'"
    ):
        made(own, test_domains=['clay'])
    (own / 'gone').symlink_to('/nowhere/at/all')
    with pytest.raises(
        ValueError, match=r"no domain is called 'gone' \(a link to /nowhere/at/all, which is not there\)"
    ):
        made(own, test_domains=['gone'])


def test_a_domain_of_one_class(own):
    shutil.rmtree(own / 'photo' / 'dog')
    for options in ({'train_domains': ['photo']}, {'test_domains': ['photo']}):
        with pytest.raises(ValueError, match=r"the domain 'photo' has pictures of one class alone, 'cat', of the 2 of"):
            made(own, **options)


def test_a_class_that_a_domain_lacks(own, caplog):
    archive(own, ['art', 'photo'], ['emu'])
    with caplog.at_level(logging.WARNING, 'basicsr'):
        dataset = made(own, train_domains=['art', 'sketch'], test_domains=['photo'])
    assert "1 classes are not in the domain 'sketch': emu" in caplog.text and "'art'" not in caplog.text
    assert dataset.classes == ['cat', 'dog', 'emu'] and set(dataset.labels) == {0, 1, 2}
    message = r"1 classes of the test domain 'photo' are in no training domain: emu \(training domains: sketch\)"
    for phase in ('train', 'val', 'test'):
        with pytest.raises(ValueError, match=message):
            made(own, phase=phase, train_domains=['sketch'], test_domains=['photo'])
    assert made(own, train_domains=['art'], test_domains=['sketch']).classes == ['cat', 'dog', 'emu']


def test_folders_and_files_that_do_not_count(own, caplog):
    (own / 'art' / 'emu').mkdir()
    for name in ('Thumbs.db', 'notes.txt', '.hidden.png', 'raw.heic'):
        (own / 'art' / 'cat' / name).write_bytes(b'?')
    picture(own / 'art' / 'cover.png')
    (own / '__MACOSX' / 'art' / 'cat').mkdir(parents=True)
    (own / 'readme.txt').write_text('?')
    with caplog.at_level(logging.WARNING, 'basicsr'):
        dataset = made(own)
    assert len(dataset) == 24 and dataset.classes == ['cat', 'dog']
    assert "1 class folders of the domain 'art' hold no pictures: emu" in caplog.text
    ignored = (
        "3 files of the domain 'art' are ignored: no pictures, or in no class: cat/Thumbs.db, cat/notes.txt, cover.png"
    )
    assert ignored in caplog.text
    assert "1 files of the domain 'art' are left out, whose formats are not read: cat/raw.heic" in caplog.text


def test_classes_that_differ_in_nothing_that_counts(own):
    archive(own, ['art'], ['Dog'])
    with pytest.raises(ValueError, match="the classes 'Dog' of art and 'dog' of art differ in upper and lower case"):
        made(own)


def test_names_that_are_the_same_without_their_extensions(own):
    picture(own / 'art' / 'cat' / '0.jpg')
    dataset = made(own, phase='test', test_domains='art')
    assert {'art/cat/0.jpg', 'art/cat/0.png', 'art/cat/1', 'art/dog/0'} < set(dataset.names)
    assert len(set(dataset.names)) == len(dataset) == 11


def test_nothing_to_hold_out(tmp_path):
    archive(tmp_path, count=1)
    assert len(made(tmp_path)) == 6
    with pytest.raises(ValueError, match='held_out: no class of art, photo, sketch has two pictures'):
        made(tmp_path, phase='val')


# Oddities of archives


def test_folders_below_a_class_belong_to_it(own):
    picture(own / 'art' / 'cat' / 'more' / 'of' / 'them.JPG')
    dataset = made(own, phase='test', test_domains='art')
    assert 'art/cat/more/of/them' in dataset.names
    assert dataset.labels[dataset.names.index('art/cat/more/of/them')] == 0


def test_a_folder_above_the_domains(whole, tmp_path, caplog):
    archive(tmp_path / 'PACS' / 'kfold')
    with caplog.at_level(logging.INFO, 'basicsr'):
        dataset = made(tmp_path / 'PACS', phase='val')
    assert f"the domains are in '{tmp_path}/PACS/kfold'" in caplog.text
    assert dataset.names == made(whole, phase='val').names


def test_one_domain_whose_pictures_are_nested_is_a_domain(tmp_path):
    for name in CLASSES:
        for part in ('a', 'b'):
            picture(tmp_path / 'art' / name / f'{part}-of-{name}' / '1.png')
    assert made(tmp_path).domains == ['art'] and made(tmp_path).classes == ['cat', 'dog']


@pytest.mark.parametrize('splits', [('train', 'crossval', 'test'), ('full', 'train')])
def test_splits_between_domain_and_class(tmp_path, splits, caplog):
    for split in splits:
        archive(tmp_path, between=split, count=3)
    with caplog.at_level(logging.INFO, 'basicsr'):
        dataset = made(tmp_path, phase='test', test_domains='art')
    read = ['full'] if 'full' in splits else sorted(splits)
    assert dataset.classes == ['cat', 'dog'] and len(dataset) == 6 * len(read)
    assert len(set(dataset.names)) == len(dataset)
    assert f'art has splits of its own, of which {", ".join(read)} is read as one' in caplog.text


def test_links(own, tmp_path):
    os.symlink(own / 'photo', own / 'again')
    os.symlink(own, own / 'itself')
    os.symlink(own / 'art' / 'cat', own / 'art' / 'cat' / 'loop')
    dataset = made(own, phase='test', test_domains=['again', 'art'])
    assert dataset.groups.count(0) == 10 and dataset.groups.count(1) == 10
    with pytest.raises(ValueError, match="no domain is called 'itself'"):
        made(own, test_domains='itself')
    os.symlink('/nowhere/1.png', own / 'art' / 'cat' / '9.png')
    message = r'1 files of dataroot .* cannot be opened: art/cat/9.png is a link to /nowhere/1.png, which is not there'
    with pytest.raises(ValueError, match=message):
        made(own, phase='test', test_domains='art')
    assert len(made(own, phase='test', test_domains='art', skip_broken=True)) == 10


# Pictures of all kinds


@pytest.mark.parametrize('name', ['a.JPG', 'a.jpeg', 'a.gif', 'a.webp', 'a.tiff', 'a.BMP', 'a.ppm', 'a.pgm', 'a.png'])
def test_formats(own, name):
    picture(own / 'art' / 'ant' / name)
    picture(own / 'photo' / 'ant' / '1.png')
    dataset = made(own, phase='test', test_domains='art', train_domains=['photo'])
    assert dataset.names[0] == 'art/ant/a' and dataset[0]['image'].shape == (3, 16, 16)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'RGB'])
def test_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png')
    Image.new('RGB', (8, 6), (255, 255, 255)).convert(mode).save(path)
    found = decoding.read_rgb(path)
    assert found.shape == (6, 8, 3) and found.dtype == np.uint8 and (found > 250).all()


def test_sixteen_bits_are_reduced_to_eight(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / 'a.png')
    assert decoding.read_rgb(tmp_path / 'a.png')[0, :, 0].tolist() == [0, 1, 128, 255]
    Image.fromarray(values.astype(np.int32)).save(tmp_path / 'b.tif')
    assert decoding.read_rgb(tmp_path / 'b.tif')[0, :, 2].tolist() == [0, 1, 128, 255]
    Image.fromarray(values.astype(np.int32) + 1).save(tmp_path / 'b.tif')
    with pytest.raises(ValueError, match=r"'.*b\.tif' cannot be read as a picture: its values are beyond 16 bits"):
        decoding.read_rgb(tmp_path / 'b.tif')
    Image.fromarray(values.astype(np.float32)).save(tmp_path / 'c.tif')
    with pytest.raises(ValueError, match='its values are floats, of which it does not say how bright they are'):
        decoding.read_rgb(tmp_path / 'c.tif')


def test_transparent_palettes_and_animations(tmp_path):
    palette = Image.new('P', (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / 'a.png', transparency=bytes([0, 7]))
    assert decoding.read_rgb(tmp_path / 'a.png')[0, 0].tolist() == [200, 100, 50]
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'lime')]
    frames[0].save(tmp_path / 'b.gif', save_all=True, append_images=frames[1:])
    assert decoding.read_rgb(tmp_path / 'b.gif')[0, 0].tolist() == [255, 0, 0]


def test_orientation_of_cameras_is_applied(tmp_path):
    upright = Image.new('RGB', (4, 2))
    upright.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.save(tmp_path / 'a.png', exif=exif)
    found = decoding.read_rgb(tmp_path / 'a.png')
    assert found.shape == (4, 2, 3) and found[0, 1].tolist() == [255] * 3 and found.sum() == 3 * 255


# Broken pictures


@pytest.fixture
def broken(own):
    path = own / 'art' / 'cat' / '3.png'
    path.write_bytes(path.read_bytes()[:200])
    return path


def test_a_broken_picture_is_named(own, broken):
    dataset = made(own, phase='test', test_domains='art')
    message = (
        rf"'{re.escape(str(broken))}' cannot be read as a picture: .*; mend or remove it, .* with skip_broken: true"
    )
    with pytest.raises(ValueError, match=message):
        dataset[below(own, dataset.paths).index('art/cat/3.png')]
    with pytest.raises(ValueError, match=message):
        made(own, phase='test', test_domains='art', cache=True)


def test_broken_pictures_are_left_out_where_that_is_asked_for(own, broken, caplog):
    (own / 'art' / 'dog' / '1.png').write_bytes(b'')
    held_out = below(own, made(own, phase='val').paths)
    with caplog.at_level(logging.WARNING, 'basicsr'):
        dataset = made(own, phase='test', test_domains='art', skip_broken=True)
    gone = {'art/cat/3.png', 'art/dog/1.png'}
    assert len(dataset) == len(dataset.labels) == 8 and not gone & set(below(own, dataset.paths))
    assert '2 of 10 pictures cannot be read and are left out (skip_broken): ' + str(broken) in caplog.text
    assert below(own, made(own, phase='val', skip_broken=True).paths) == [one for one in held_out if one not in gone]
    for path in (own / 'art').rglob('*.png'):
        path.write_bytes(b'?')
    with pytest.raises(ValueError, match='skip_broken: 10 pictures, and not one can be read: '):
        made(own, phase='test', test_domains='art', skip_broken=True)


def test_files_are_looked_at_once_while_they_stay(own, monkeypatch):
    made(own, phase='test', test_domains='art', skip_broken=True)
    read = []
    monkeypatch.setattr(decoding, 'read_rgb', lambda path: read.append(Path(path).name))
    os.utime(own / 'art' / 'cat' / '2.png', ns=(1, 1))
    made(own, phase='test', test_domains='art', skip_broken=True)
    assert read == ['2.png']


# Memory


def test_the_cache_changes_nothing_but_where_pictures_come_from(own, caplog):
    picture(own / 'art' / 'cat' / 'wide.png', 8, 90)
    options = {'phase': 'train', 'held_out': 0.2}
    plain = made(own, **options)
    with caplog.at_level(logging.INFO, 'basicsr'):
        cached = made(own, **options, cache=True)
    assert re.search(r'cache: 25 decoded pictures take 5\d\.\d KB of memory, of .*B that is free', caplog.text)
    seeded = [SeededDataset(dataset) for dataset in (plain, cached)]
    for index in range(len(plain)):
        first, second = (dataset[(index, (1, 2, index))] for dataset in seeded)
        assert torch.equal(first['image'], second['image'])
    shutil.rmtree(own)
    assert cached[0]['image'].shape == (3, 16, 16)
    batches = DataLoader(cached, 5, num_workers=2, multiprocessing_context=multiprocessing.get_context('fork'))
    assert sum(len(batch['image']) for batch in batches) == 25
    with pytest.raises(FileNotFoundError, match='is absent'):
        plain[0]


def test_transforms_in_place_do_not_reach_the_cache(whole):
    once = [{'Resize': 16}, {'RandomErasing': {'p': 1, 'inplace': True, 'value': 255}}]
    dataset = made(whole, phase='val', cache=True, transforms=once)
    before = dataset._cache[0]
    dataset[0]
    assert torch.equal(dataset._cache[0], before)


def test_two_data_sets_of_the_same_files_share_a_cache(whole):
    first, second = made(whole, cache=True), made(whole, cache=True, image_size=8)
    assert first._cache is second._cache
    assert made(whole, phase='val', cache=True)._cache is not first._cache


def test_more_than_is_free_is_refused_before_it_is_taken(whole, monkeypatch):
    monkeypatch.setattr(decoding, 'free_memory', lambda: 40000)
    monkeypatch.setattr(decoding, 'read_rgb', lambda path: pytest.fail('decoded'))
    with pytest.raises(ValueError, match=r'cache: 24 decoded pictures take 54\.0 KB of memory, of which 39\.1 KB is'):
        made(whole, cache=True)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '8')
    with pytest.raises(ValueError, match=r'6 decoded pictures take 13\.5 KB of memory in each of 8 processes'):
        made(whole, phase='val', cache=True)


def test_free_memory_is_that_of_the_machine_or_less():
    free = decoding.free_memory()
    if not Path('/proc/meminfo').exists():
        assert free is None
        return
    total = int(re.search(r'MemTotal: +(\d+)', Path('/proc/meminfo').read_text())[1]) * 1024
    assert 0 <= free <= total


def test_it_travels_without_its_cache(whole):
    dataset = made(whole, phase='val', cache=True)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._cache is None and dataset._cache is not None
    assert torch.equal(copy[1]['image'], dataset[1]['image'])


# Transforms


def test_the_default_in_training_is_domainbeds(whole):
    steps = made(whole)._transform._steps.transforms
    names = ['RandomResizedCrop', 'RandomHorizontalFlip', 'ColorJitter', 'RandomGrayscale', 'ToDtype', 'Normalize']
    assert [type(step).__name__ for step in steps] == names
    crop, flip, jitter, grey, _, _ = steps
    assert list(crop.size) == [16, 16] and list(crop.scale) == [0.7, 1] and flip.p == 0.5 and grey.p == 0.1
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.7, 1.3) and jitter.hue == (-0.3, 0.3)
    for phase in ('val', 'test'):
        steps = made(whole, phase=phase)._transform._steps.transforms
        assert [type(step).__name__ for step in steps] == ['Resize', 'ToDtype', 'Normalize']


@pytest.mark.parametrize(
    'entry',
    [
        'RandomVerticalFlip',
        *[{'RandomVerticalFlip': 0.5}, {'RandomVerticalFlip': {'p': 0.5}}, {'RandomVerticalFlip': None}],
        {'type': 'RandomVerticalFlip', 'p': 0.5},
    ],
)
def test_ways_of_writing_a_transform(whole, entry):
    dataset = SeededDataset(made(whole, transforms=[entry, {'Resize': {'size': 8, 'interpolation': 'bicubic'}}]))
    step = dataset._transform._steps.transforms[0]
    assert type(step).__name__ == 'RandomVerticalFlip' and step.p == 0.5
    pictures = {tuple(dataset[(0, (0, 0, place))]['image'].flatten().tolist()) for place in range(20)}
    assert len(pictures) == 2


def test_transforms_with_choices_and_transforms_inside(whole):
    entries = [
        {'RandomApply': {'p': 1, 'transforms': [{'Grayscale': {'num_output_channels': 3}}, 'RandAugment']}},
        {'AutoAugment': {'policy': 'cifar10'}},
        {'RandomCrop': [16, 20]},
        *[FLOAT, {'Normalize': {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}}],
    ]
    dataset = made(whole, transforms=entries)
    assert dataset.item_size == (16, 20)
    image = dataset[0]['image']
    assert image.shape == (3, 16, 20) and image.min() >= -1 and image.max() <= 1


def test_the_size_that_transforms_make(whole, own, caplog):
    with caplog.at_level(logging.WARNING, 'basicsr'):
        assert made(whole, transforms=[{'CenterCrop': 10}]).item_size == (10, 10)
    assert 'transforms make pictures of 10x10, and image_size is 16x16: the transforms decide' in caplog.text
    caplog.clear()
    picture(own / 'art' / 'cat' / 'wide.png', 8, 90)
    with caplog.at_level(logging.WARNING, 'basicsr'):
        dataset = made(own, transforms=['RandomHorizontalFlip'], phase='test', test_domains='art')
    assert dataset.item_size == (16, 16) and not caplog.text
    assert {tuple(item['image'].shape) for item in (dataset[index] for index in range(11))} == {(3, 16, 16)}


def test_a_picture_that_transforms_refuse_is_named(own):
    path = picture(own / 'art' / 'cat' / '0.png', 8, 90)
    dataset = made(own, transforms=[{'RandomCrop': 12}], phase='test', test_domains='art')
    message = rf"'{re.escape(str(path))}': transforms: a picture of 8x90 cannot pass: Required crop size"
    with pytest.raises(ValueError, match=message):
        dataset[0]


def test_trying_the_transforms_leaves_random_numbers_alone(whole):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    made(whole)
    assert torch.equal(torch.rand(3), expected)


# What a run asks


def test_sizes_and_batches_for_a_rehearsal(whole):
    dataset = made(whole, phase='test', image_size=[10, 12])
    assert sizes_of(dataset) == dict.fromkeys(range(len(dataset)), (10, 12))
    assert size_of(dataset[0], 'image') == (10, 12)
    batch = first_batch(build_dataloader(dataset, {'phase': 'test', 'batch_size_per_gpu': 4}))
    assert batch['image'].shape == (4, 3, 10, 12)


def test_it_is_built_by_its_section(whole, caplog):
    section = {
        **{'type': 'DomainFolderDataset', 'name': 'mine', 'phase': 'train', 'dataroot': str(whole)},
        **{'image_size': 16, 'test_domains': 'art', 'batch_size_per_gpu': 4, 'num_worker_per_gpu': 0},
    }
    with caplog.at_level(logging.INFO, 'basicsr'):
        dataset = build_dataset(section)
    assert len(dataset) == 16 and dataset.opt == section
    assert 'train samples: 8 of photo, 8 of sketch; 2 classes' in caplog.text
