"""`basicsr/test.py` on several domains and networks, in this process."""

import logging
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.data.prefetch_dataloader import read_ahead
from basicsr.evaluation import build_networks
from basicsr.metrics import calculate_metric
from basicsr.models import build_model
from basicsr.models.picture_model import PictureModel, picture_name
from basicsr.results.scores import Results
from basicsr.runs.command_line import make_parser
from basicsr.test import test_pipeline as run_test

NETWORK = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2}
PSNR = {'type': 'calculate_psnr', 'crop_border': 0}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two cameras with 3 and 2 pairs x2, two checkpoints, and options that test the first."""
    rng = np.random.default_rng(0)
    for camera, count in (('near', 3), ('far', 2)):
        for index in range(count):
            for name, side in (('HR', 32), ('LR', 16)):
                path = tmp_path / camera / name / f'{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 256, (side, side, 3)).astype(np.uint8))
    for name, seed in (('first', 0), ('second', 1)):
        torch.manual_seed(seed)
        torch.save({'params': build_network(NETWORK).state_dict()}, tmp_path / f'{name}.pth')
    sets = {
        f'test_{camera}': {'name': camera, 'type': 'PairedImageDataset'}
        | {f'dataroot_{key}': f'{camera}/{name}' for key, name in (('gt', 'HR'), ('lq', 'LR'))}
        for camera in ('near', 'far')
    }
    opt = {
        **{'name': 'trial', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'network_g': NETWORK},
        **{'datasets': sets, 'path': {'pretrain_network_g': 'first.pth'}, 'val': {'metrics': {'psnr': PSNR}}},
    }
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    yield tmp_path
    logger = logging.getLogger('basicsr')
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def results_of(folder, *arguments: str) -> Results:
    args = make_parser(is_train=False).parse_args(['-opt', str(folder / 'test.yml'), *arguments])
    run_test(str(folder), args)
    return Results.load(folder / 'results' / 'trial')


def psnr(folder, checkpoint: str, camera: str, index: int) -> float:
    """What the network of a checkpoint reaches on one picture, by hand."""
    net = build_network(NETWORK)
    net.load_state_dict(torch.load(folder / f'{checkpoint}.pth')['params'])
    lq, gt = (cv2.imread(str(folder / camera / name / f'{index}.png')) for name in ('LR', 'HR'))
    with torch.no_grad():
        output = net(torch.from_numpy(lq[..., ::-1].copy()).permute(2, 0, 1)[None] / 255)[0]
    picture = (output.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
    return calculate_metric({'img': picture, 'img2': gt}, PSNR)


def test_several_checkpoints_and_bicubic_in_one_run(folder, logged):
    results = results_of(
        folder, '--compare', 'bicubic', f'other={folder}/second.pth', '--set', 'val.save_img=true'
    )  # fmt: skip
    assert results.networks == ['bicubic', 'other', 'trial'] and results.main == 'trial'
    assert list(results.domains) == ['near', 'far']
    for network, checkpoint in (('other', 'second'), ('trial', 'first')):
        for camera, count in (('near', 3), ('far', 2)):
            expected = [psnr(folder, checkpoint, camera, index) for index in range(count)]
            assert results.values(network, camera, 'psnr') == pytest.approx(expected, abs=1e-4)
    assert results.domains['far']['images']['1'] == {key: f'{folder}/far/{name}/1.png' for key, name in
                                                     (('lq', 'LR'), ('gt', 'HR'))}  # fmt: skip
    for network in results.networks:
        picture = folder / 'results/trial/visualization/near' / f'2_{network}.png'
        assert cv2.imread(str(picture)).shape == (32, 32, 3)
    table = (folder / 'results/trial/table.md').read_text()
    assert 'to bicubic' in table and 'to other' in table and 'mean of the unseen' in table
    shares = [record.getMessage() for record in logged.records if 'outside the network' in record.getMessage()]
    assert len(shares) == 6 and all('2 pictures' in text or '3 pictures' in text for text in shares)


def test_compare_in_the_file_may_be_another_network(folder):
    opt = yaml.safe_load((folder / 'test.yml').read_text())
    larger = {**NETWORK, 'num_feat': 6}
    torch.save({'params_ema': build_network(larger).state_dict()}, folder / 'larger.pth')
    opt['compare'] = {'larger': {'pretrain_network_g': 'larger.pth', 'param_key_g': 'params_ema', 'network_g': larger}}
    (folder / 'test.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    assert results_of(folder).networks == ['larger', 'trial']


def test_self_ensemble(folder):
    plain, ensemble = results_of(folder), results_of(folder, '--self_ensemble')
    assert not np.allclose(plain.values('trial', 'near', 'psnr'), ensemble.values('trial', 'near', 'psnr'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--compare', 'other'], r'--compare other: write it as label=checkpoint, or bicubic'),
        (['--compare', 'a/b=second.pth'], r'compare.a/b: is part of the names of files .* cannot hold a slash'),
        (['--compare', 'trial=second.pth'], r'compare.trial: is a label .* not the name of the test'),
        (['--compare', 'other=absent.pth'], r'compare.other.pretrain_network_g: .*absent.pth'),
        (['--compare', 'other=test.yml'], r'compare\.other\.pretrain_network_g: .*test\.yml is no'),
        (['--set', 'compare.other.param_key_g=params'], r'compare.other.pretrain_network_g: missing'),
        (['--set', 'datasets.test_far.name=near'], r"two test sets are called 'near'"),
    ],
)
def test_mistakes_are_known_before_anything_is_made(folder, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        results_of(folder, *arguments)
    assert not (folder / 'results').exists()


def test_a_network_that_does_not_fit_is_named_before_the_first_is_tested(folder):
    torch.save({'params': build_network({**NETWORK, 'num_feat': 6}).state_dict()}, folder / 'larger.pth')
    with pytest.raises(ValueError, match=r'compare\.other\.pretrain_network_g: .*larger\.pth'):
        results_of(folder, '--compare', 'other=larger.pth')
    assert not (folder / 'results').exists()


def test_a_checkpoint_that_has_gone_is_named_by_its_label(folder):
    opt = yaml.safe_load((folder / 'test.yml').read_text())
    networks = {'other': {'path': {'pretrain_network_g': str(folder / 'gone.pth')}}}
    with pytest.raises(FileNotFoundError, match=r'^other: .*gone\.pth'):
        build_networks(opt, networks, str(folder), save_img=False)


def test_reading_and_scoring_go_on_beside_the_network(folder, monkeypatch):
    opt = yaml.safe_load((folder / 'test.yml').read_text())
    opt.update(is_train=False, dist=False, rank=0, path={'visualization': str(folder)})
    model = build_model(opt)
    threads = {}

    class Pictures(torch.utils.data.Dataset):
        def __init__(self):
            self.opt = {'name': 'near'}

        def __len__(self):
            return 6

        def __getitem__(self, index):
            threads.setdefault('read', set()).add(threading.current_thread())
            return {'lq': torch.zeros(3, 8, 8), 'gt': torch.full((3, 16, 16), 0.2 * index), 'lq_path': f'{index}.png'}

    def seen(data, section):
        threads.setdefault('scored', set()).add(threading.current_thread())
        return float(data['img2'].mean())

    monkeypatch.setattr('basicsr.models.picture_model.calculate_metric', seen)
    model.validation(torch.utils.data.DataLoader(Pictures()), 'trial', None)
    assert [name for name, _ in model.image_results] == list('012345')
    assert [scores['psnr'] for _, scores in model.image_results] == [51 * n for n in range(6)]
    assert threading.main_thread() not in threads['read'] | threads['scored']
    assert threads['read'].isdisjoint(threads['scored'])


def test_scores_are_computed_on_the_gpu_of_the_process(monkeypatch):
    class Copies(PictureModel):
        def feed_data(self, data):
            self.lq = self.gt = data['lq']

        def test(self):
            self.output = self.lq

    class Pictures(list):
        opt: ClassVar = {'name': 'near'}

    gpus = {threading.main_thread(): 3}
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: gpus.get(threading.current_thread(), 0))
    monkeypatch.setattr(torch.cuda, 'set_device', lambda gpu: gpus.update({threading.current_thread(): gpu}))
    monkeypatch.setattr('basicsr.models.picture_model.calculate_metric', lambda *_: torch.cuda.current_device())
    opt = {'num_gpu': 1, 'is_train': True, 'dist': False, 'rank': 0, 'val': {'metrics': {'psnr': PSNR}}}
    model = Copies(opt)
    pictures = Pictures([{'lq': torch.zeros(3, 8, 8), 'lq_path': f'{index}.png'} for index in range(2)])
    model.validation(torch.utils.data.DataLoader(pictures), 1, None)
    assert [scores['psnr'] for _, scores in model.image_results] == [3, 3]


def test_reading_ahead_stops_with_the_reader():
    drawn = []
    reader = read_ahead((drawn.append(number) or number for number in range(100)), 3)
    assert [next(reader), next(reader)] == [0, 1]
    reader.close()
    assert len(drawn) < 10

    def broken():
        yield 1
        raise ValueError('no picture')

    reader = read_ahead(broken())
    assert next(reader) == 1
    with pytest.raises(ValueError, match='no picture'):
        next(reader)


def test_pictures_that_a_list_names_outside_its_folder_have_their_results_inside(folder):
    """`../far/HR/0.png` in a list is read where it lies; what the network makes of it goes to the results alone."""
    (folder / 'list.txt').write_text('../../far/HR/0.png\n1.png\n')
    shutil.copytree(folder / 'near/LR', folder / 'near/deep/LR')
    before = {path for path in folder.rglob('*') if path.is_file()}
    changes = (
        'datasets.test_near.meta_info_file=list.txt',
        'datasets.test_near.dataroot_lq=near/deep/LR',
        'datasets.test_far=~',
        'val.save_img=true',
    )
    results = results_of(folder, '--set', *changes)
    assert list(results.domains['near']['images']) == ['0', '1']
    pictures = folder / 'results/trial/visualization/near'
    assert sorted(path.name for path in pictures.iterdir()) == ['0_trial.png', '1_trial.png']
    new = {path for path in folder.rglob('*') if path.is_file()} - before
    assert all(path.is_relative_to(folder / 'results/trial') for path in new)


@pytest.mark.parametrize('path', ['..', 'a/..', '.', '', 'a/', '/', 'a\0.png'])
def test_pictures_without_a_name_for_their_results(path):
    with pytest.raises(ValueError, match=r'the data set calls a picture .*rename it'):
        picture_name(path)
    assert picture_name('../a/b.v1.png') == 'b.v1' and picture_name('x.lmdb/sub/k') == 'k'
