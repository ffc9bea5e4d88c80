"""What every data set of the project can do. A new one needs an entry in `SECTIONS`; the rest comes by itself."""

import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
import torch
from skimage import data
from torch.utils.data import DataLoader

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.options.choices import path_arguments, takes_whole_section
from basicsr.utils.registry import DATASET_REGISTRY

NAMES = sorted(name for name, kind in DATASET_REGISTRY if kind.__module__.startswith('basicsr.'))
SECTIONS = {
    'PairedImageDataset': {
        **{'dataroot_gt': 'gt', 'dataroot_lq': 'lq', 'scale': 2, 'gt_size': 32},
        **{'use_hflip': True, 'use_rot': True},
    },
    'SingleImageDataset': {'dataroot_lq': 'same_size'},
    'DomainFolderDataset': {'dataroot': 'domains', 'image_size': 48, 'held_out': 0.5},
}
"""Of each data set, a section for training; paths are folders of `pictures`. Its items must have one size."""
ITEMS = {
    'PairedImageDataset': {'lq': (0, 1), 'gt': (0, 1)},
    'SingleImageDataset': {'lq': (0, 1)},
    'DomainFolderDataset': {'image': (-2.2, 2.7)},
}
"""Of each data set, the tensors of an item and their range; other values are texts and whole numbers."""


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Photographs: gt and lq, half as large; same_size: crops of 48x48; domains: two of each class of one domain."""
    root = tmp_path_factory.mktemp('photographs')
    for name in ('astronaut', 'chelsea', 'coffee'):
        picture = cv2.cvtColor(getattr(data, name)()[:96, 100:220], cv2.COLOR_RGB2BGR)
        small = cv2.resize(picture, (60, 48), interpolation=cv2.INTER_AREA)
        of_class = f'domains/photo/{name}'
        for folder, img in (('gt', picture), ('lq', small), ('same_size', picture[:48, :48]), (of_class, picture)):
            (root / folder).mkdir(exist_ok=True, parents=True)
            cv2.imwrite(str(root / folder / f'{name}.png'), img)
        cv2.imwrite(str(root / of_class / 'mirrored.png'), picture[:, ::-1])
    return root


def section(name, root, **changes):
    written = dict(SECTIONS[name])
    for key in path_arguments('dataset', DATASET_REGISTRY.get(name)):
        if key in written:
            written[key] = str(root / written[key])
    loading = {'type': name, 'name': name, 'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    return {**loading, **written, **changes}


def drawn(name, root, epochs=2, **changes):
    """The batches of some epochs."""
    opt = section(name, root, **changes)
    dataset = build_dataset(opt)
    sampler = EnlargedSampler(dataset, 1, 0, ratio=2, seed=3)
    loader, batches = build_dataloader(dataset, opt, 0, sampler=sampler, seed=3), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def same(first, second):
    return all(torch.equal(first[key], torch.as_tensor(second[key])) for key in first if torch.is_tensor(first[key]))


def test_each_data_set_has_a_section_here():
    missing = [name for name in NAMES if name not in SECTIONS or name not in ITEMS]
    assert not missing, f'add {", ".join(missing)} to SECTIONS and ITEMS of {__file__}, so that the tests see it'


@pytest.mark.parametrize('name', NAMES)
def test_items(name, pictures):
    dataset = build_dataset(section(name, pictures))
    assert len(dataset) == 3
    for index in range(3):
        item = dataset[index]
        assert {key for key, value in item.items() if torch.is_tensor(value)} == set(ITEMS[name])
        for key, (low, high) in ITEMS[name].items():
            assert item[key].dtype == torch.float32
            assert low <= item[key].min() < item[key].max() <= high, f'{key}: a photograph between {low} and {high}'
        assert all(isinstance(value, str | int) for key, value in item.items() if key not in ITEMS[name])
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize('name', NAMES)
def test_samples_are_a_function_of_seed_epoch_and_place(name, pictures):
    alone = drawn(name, pictures)
    assert len(alone) == 6
    for workers in (0, 2):
        again = drawn(name, pictures, num_worker_per_gpu=workers)
        assert all(same(first, second) for first, second in zip(alone, again, strict=True)), workers


@pytest.mark.parametrize('name', NAMES)
def test_it_travels_to_another_process(name, pictures):
    dataset = build_dataset(section(name, pictures, phase='val'))
    assert same(pickle.loads(pickle.dumps(dataset))[1], dataset[1])
    spawned = DataLoader(dataset, num_workers=1, multiprocessing_context=multiprocessing.get_context('spawn'))
    for index, batch in enumerate(spawned):
        assert same({key: value[0] for key, value in batch.items()}, dataset[index])


@pytest.mark.parametrize('name', NAMES)
def test_what_is_not_there_is_named(name, pictures):
    factory = DATASET_REGISTRY.get(name)
    paths = [key for key in path_arguments('dataset', factory) if key in SECTIONS[name]]
    assert paths, 'annotate its paths: str | os.PathLike[str]'
    for key in paths:
        with pytest.raises(FileNotFoundError, match=rf'{key}: .*nowhere'):
            build_dataset(section(name, pictures, **{key: str(pictures / 'nowhere')}))
    assert not takes_whole_section(factory), 'give it a signature: see `basicsr.data.contract`'
    with pytest.raises(ValueError, match=rf"{name} takes no option '{paths[0]}x'; did you mean '{paths[0]}'"):
        build_dataset(section(name, pictures, **{f'{paths[0]}x': 'a'}))


@pytest.mark.parametrize('name', NAMES)
def test_basicsrs_call_makes_the_same(name, pictures):
    opt = section(name, pictures, phase='val', key_of_a_subclass=3)
    dataset = DATASET_REGISTRY.get(name)(opt)
    assert dataset.opt is opt
    assert same(dataset[2], build_dataset({key: opt[key] for key in opt if key != 'key_of_a_subclass'})[2])


def test_the_pictures_are_photographs(pictures):
    assert {path.name for path in (pictures / 'gt').iterdir()} == {'astronaut.png', 'chelsea.png', 'coffee.png'}
    assert all(np.unique(cv2.imread(str(path))).size > 100 for path in (pictures / 'gt').iterdir())
