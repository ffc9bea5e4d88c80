"""Classification: training, strategies, resuming, tests, files; on pictures that a small CNN learns in seconds."""

import csv
import json
import math
import re
import shutil

import pytest
import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY
from tests import small_classes
from tests.small_run import everything, weights

LDT = {'scoring_batches': 2, 'exchange_every': 1, 'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]}
STRATEGIES = {
    'plain': {},
    'ema': {'ema_decay': 0.5},
    'swad': {'swad': {'converged': 1, 'patience': 3, 'tolerance': 2.0}},
    'wise_ft': {'wise_ft': 0.3},
    'lp_ft': {'head_first': {'iter': 2, 'prefixes': 'head'}},
    'ldt': {'ldt': LDT},
    'ldt_s': {'ldt': {**LDT, 'exchange_every': None, 'strategy': 'alternating', 'alternate_every': 1}},
    'deft': {'ldt': {**LDT, 'criterion': 'prefix', 'unstable_prefixes': ['head']}},
}


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    return small_classes.make_archive(tmp_path_factory.mktemp('classes') / 'archive')


@pytest.fixture
def folder(archive, tmp_path):
    (tmp_path / 'archive').symlink_to(archive)
    return tmp_path


def model_of(folder, is_train=False, **changes):
    opt = small_classes.options(folder, **changes)
    for key, section in opt['datasets'].items():
        section.update(phase=key.split('_')[0], name=section.get('name', key))
    opt.update(is_train=is_train, dist=False, rank=0, world_size=1)
    opt['path'].update(experiments_root=str(folder), visualization=str(folder / 'visualization'))
    return build_model(opt)


def loader_of(dataset, model, name='some', batch_size=3):
    dataset.opt = {'name': name}
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size)


def test_it_learns_what_it_is_shown(folder, capsys):
    small_classes.train(folder, train__total_iter=80, val__val_freq=20, logger__save_best='nll')
    results = json.loads((folder / 'experiments/classes/results.json').read_text())
    scores = results['scores']['after']['night']
    assert len(scores) == 3 * small_classes.PER_CLASS
    assert sum(one['accuracy'] for one in scores.values()) / len(scores) > 0.9, 'a domain that it never saw'
    assert set(results['of_sets']['after']['night']) == {'ece'}
    assert results['metrics'] == {'accuracy': 'higher', 'balanced': 'higher', 'nll': 'lower', 'ece': 'lower'}
    table = (folder / 'experiments/classes/table.md').read_text()
    assert re.search(r'\| night +\| 30 +\|', table)
    with open(folder / 'experiments/classes/visualization/night/predictions_classes.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    for row in rows:
        probabilities = {name: float(row[name]) for name in small_classes.CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row['predicted'] == max(probabilities, key=probabilities.get)
        assert f'/night/{row["true"]}/' in row['file']
    assert sum(row['true'] == row['predicted'] for row in rows) / 30 == pytest.approx(
        sum(one['accuracy'] for one in scores.values()) / 30
    )
    assert (folder / 'experiments/classes/visualization/night/confusion_classes.png').stat().st_size > 1000


@pytest.mark.parametrize('label', STRATEGIES)
def test_each_strategy_trains_and_resumes_bit_for_bit(folder, label):
    options = {'train': {**small_classes.options(folder)['train'], **STRATEGIES[label]}, 'network_g__num_classes': 3}
    if label == 'swad':
        options['logger__save_best'] = None
    if label == 'wise_ft':
        options['path__pretrain_network_g'] = str(folder / 'start.pth')
        save_checkpoint(
            {'params': build_network({'type': 'SmallCNN', 'width': 4, 'stages': 2, 'num_classes': 3}).state_dict()},
            folder / 'start.pth',
        )
    small_classes.train(folder, name='whole', **options)
    small_classes.train(folder, name='part', **{**options, 'train': {**options['train'], 'total_iter': 6}})
    last = folder / 'experiments/part/training_states/6.state'
    last.unlink()
    for file in (folder / 'experiments/part/models').glob('net_g_[6lb]*'):
        file.unlink()
    small_classes.train(folder, True, name='part', **options)
    one, other = weights(folder, 'whole'), weights(folder, 'part')
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = model_of(folder, network_g__num_classes=3).net_g.state_dict()
    assert any(not torch.equal(one[name], start[name]) for name in one)


NETWORKS = {
    'cnn': {'type': 'SmallCNN', 'width': 4, 'stages': 2},
    'transformer': {'type': 'timm', 'name': 'test_vit', 'img_size': 16, 'patch_size': 8},
    'mamba': {
        **{'type': 'VisionMamba', 'img_size': 16, 'patch_size': 4, 'stride': 4, 'depth': 2, 'embed_dim': 24},
        **{'d_state': 4, 'final_pool_type': 'mean'},
    },
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_ldt_goes_its_whole_way_with_each_kind_of_network(folder, kind):
    """Warm-up, scores, partition, two branches, composite, selection, test."""
    ldt = {**LDT, 'warmup_iter': 4, 'scoring_batches': 3, 'exchange_every': 1}
    options = {'network_g': NETWORKS[kind], 'train__ldt': ldt, 'train__total_iter': 40, 'val__val_freq': 20}
    small_classes.train(folder, **options, train__optim_g__lr=3e-3, logger__save_best='nll')
    run = folder / 'experiments/classes'
    partition = json.loads((run / 'partition.json').read_text())
    net = build_network({**NETWORKS[kind], 'num_classes': 3})
    names = [name for name, _ in net.named_parameters()]
    assert sorted([*partition['stable'], *partition['unstable']]) == sorted(names)
    assert partition['stable'] and partition['unstable']
    published = weights(folder, 'classes')
    assert all(value.isfinite().all() for value in published.values())
    results = json.loads((run / 'results.json').read_text())
    losses = [one['nll'] for one in results['scores']['after']['night'].values()]
    assert sum(losses) / len(losses) < 0.8 * math.log(3), 'better than saying nothing, on a domain that it never saw'


def test_the_number_of_classes_is_that_of_the_data(folder):
    model = model_of(folder)
    assert model.net_g.head.out_features == 3
    assert model.classes == list(small_classes.CLASSES)
    with pytest.raises(ValueError, match=r'network_g.num_classes: 5, and the data have 3 \(columns, disc, rows\)'):
        model_of(folder, network_g__num_classes=5)


def test_names_of_classes_are_those_of_the_data(folder):
    assert model_of(folder, class_names=list(small_classes.CLASSES)).classes == list(small_classes.CLASSES)
    with pytest.raises(
        ValueError, match=r'datasets.train: its classes are 3 .* and those of class_names 3 \(a, b, c\)'
    ):
        model_of(folder, class_names=['a', 'b', 'c'])


def test_data_sets_agree_on_their_classes(folder, tmp_path):
    other = tmp_path / 'other'
    for domain in ('day', 'night'):
        for name in ('columns', 'rows'):
            shutil.copytree(folder / 'archive' / domain / name, other / domain / name)
    with pytest.raises(
        ValueError, match=r'datasets.test_0: its classes are 2 \(columns, rows\), and those of datasets.train'
    ):
        model_of(folder, datasets__test_0__dataroot=str(other))


def test_a_network_with_another_number_of_outputs_is_named(folder):
    @ARCH_REGISTRY.register(name='FourOutputs')
    class FourOutputs(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 4, 16), nn.Flatten())

    with pytest.raises(
        ValueError, match=r'network_g: makes a tensor \(6, 4\) of 6 pictures; logits of the classes are \(6, 3\)'
    ):
        small_classes.train(folder, network_g={'type': 'FourOutputs'})
    assert not (folder / 'experiments').exists()


def test_metrics_of_pictures_are_refused_before_anything_is_made(folder):
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    with pytest.raises(ValueError, match=r'val.metrics.psnr: calculate_psnr measures pictures'):
        small_classes.train(folder, val__metrics=metrics, logger__save_best='psnr')
    assert not (folder / 'experiments').exists()


@pytest.mark.parametrize('key', ['pixel_opt', 'perceptual_opt'])
def test_losses_of_pictures_are_refused(folder, key):
    section = {
        'pixel_opt': {'type': 'L1Loss'},
        'perceptual_opt': {'type': 'PerceptualLoss', 'layer_weights': {'conv1_1': 1}},
    }
    with pytest.raises(ValueError, match=rf'train.{key}: .*ClassificationModel has no such loss.*train.cls_opt'):
        small_classes.check(folder, **{f'train__{key}': section[key]})


def test_options_of_pictures_are_said_to_do_nothing(folder, logged):
    small_classes.train(folder, val__tile_size=100, scale=2, train__total_iter=1)
    for option in ('val.tile_size', 'scale'):
        assert any(f'{option}: without effect: ClassificationModel' in text for text in logged.warnings()), option


def test_label_smoothing_changes_the_loss(folder):
    batch = {'image': torch.randn(4, 3, 16, 16), 'label': torch.tensor([0, 1, 2, 0])}
    found = []
    for smoothing in (0.0, 0.2):
        model = model_of(folder, True, train__cls_opt={'type': 'CrossEntropyLoss', 'label_smoothing': smoothing})
        torch.manual_seed(0)
        for parameter in model.net_g.parameters():
            nn.init.normal_(parameter, std=0.3)
        (loss,) = model.losses(model.net_g, model.batch_on_device(batch)).values()
        with torch.no_grad():
            logits = model.net_g(batch['image']).log_softmax(1)
        own = -logits[range(4), batch['label']].mean()
        assert loss.item() == pytest.approx(((1 - smoothing) * own - smoothing * logits.mean()).item(), rel=1e-4)
        found.append(loss.item())
    assert found[0] != found[1]


def test_accumulated_parts_are_one_batch(folder):
    gradients = []
    for accumulate in (1, 3):
        model = model_of(folder, True, train__accumulate=accumulate, network_g={'type': 'timm', 'name': 'test_vit'})
        torch.manual_seed(0)
        for parameter in model.net_g.parameters():
            nn.init.normal_(parameter, std=0.1)
        generator = torch.Generator().manual_seed(0)
        batch = {
            'image': torch.randn(6, 3, 160, 160, generator=generator),
            'label': torch.tensor([0, 1, 2, 0, 1, 1]),
        }
        model.back_propagate(model.net_g, model.batch_on_device(batch))
        gradients.append([parameter.grad.clone() for parameter in model.net_g.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_bf16(folder):
    small_classes.train(folder, train__amp='bf16', train__total_iter=3)
    assert all(value.isfinite().all() for value in weights(folder, 'classes').values())


def test_results_do_not_depend_on_the_batch_size(folder):
    found = []
    for batch_size in (1, 7, 64):
        model = model_of(folder)
        torch.manual_seed(0)
        for parameter in model.net_g.parameters():
            nn.init.normal_(parameter, std=0.3)
        dataset = build_dataset({**model.opt['datasets']['test_0']})
        model.validation(loader_of(dataset, model, batch_size=batch_size), 'x', None, False)
        assert [name for name, _ in model.image_results] == dataset.names
        found.append((dict(model.metric_results), model.image_results))
    for metrics, samples in found[1:]:
        assert metrics == pytest.approx(found[0][0], rel=1e-5)
        for (_, one), (_, other) in zip(samples, found[0][1], strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_an_answer_that_is_none_is_named(folder, logged):
    class Broken(nn.Module):
        def forward(self, x):
            logits = x.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 2, 3])
            return torch.where(torch.arange(len(x))[:, None] == 1, math.nan, logits)

    model = model_of(folder)
    model.strategy.network = Broken()
    dataset = build_dataset({**model.opt['datasets']['test_0']})
    with pytest.raises(ValueError, match=r'some, .*columns/01.png, and of 9 others: of the output of the network'):
        model.validation(loader_of(dataset, model), 'x', None, False)
    model.opt['is_train'] = model.is_train = True
    model.validation(loader_of(dataset, model), 5, None, False)
    assert math.isnan(model.metric_results['accuracy'])
    assert model.best_metric_results['some']['accuracy']['iter'] == -1
    assert any('columns/01.png' in record.getMessage() for record in logged.records if record.levelname == 'ERROR')


def test_a_data_set_of_ones_own(folder):
    @DATASET_REGISTRY.register(name='OfTwoClasses')
    class OfTwoClasses(torch.utils.data.Dataset):
        classes = ('dark', 'bright')

        def __init__(self, count: int = 12):
            self.count = count

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            return {'image': torch.full((3, 8, 8), float(index % 2)), 'label': index % 2}

    own = {'type': 'OfTwoClasses'}
    sets = {
        'train': {**own, 'batch_size_per_gpu': 4, 'num_worker_per_gpu': 0},
        'val': own,
        'test_0': {**own, 'count': 6},
    }
    small_classes.train(folder, datasets=sets, train__total_iter=30, val__val_freq=10)
    results = json.loads((folder / 'experiments/classes/results.json').read_text())
    assert all(one['accuracy'] == 1 for one in results['scores']['after']['test_0'].values())
    del OfTwoClasses.classes
    with pytest.raises(ValueError, match='class_names: missing; no data set has the attribute `classes`'):
        model_of(folder, datasets=sets)
    assert model_of(folder, datasets=sets, class_names=['dark', 'bright']).classes == ['dark', 'bright']


def test_checkpoints_tell_their_classes(folder):
    small_classes.train(folder)
    text = (folder / 'experiments/classes/options.yml').read_text()
    assert 'class_names: [columns, disc, rows]' in text and 'num_classes: 3' in text
    assert set(load_checkpoint(folder / 'experiments/classes/models/net_g_latest.pth')) == {'params'}


def test_a_checkpoint_of_other_classes_is_refused(folder):
    small_classes.train(folder)
    other = folder / 'other'
    for domain in ('day', 'night'):
        for name, new in (('columns', 'ants'), ('rows', 'bees'), ('disc', 'cats')):
            shutil.copytree(folder / 'archive' / domain / name, other / domain / new)
    file = str(folder / 'experiments/classes/models/net_g_latest.pth')
    sets = {'test_0': {**small_classes.options(folder)['datasets']['test_0'], 'dataroot': str(other)}}
    with pytest.raises(
        ValueError,
        match=r'path.pretrain_network_g: .* classes are 3 \(columns, disc, rows\), and those of the data are 3 \(ants',
    ):
        model_of(folder, datasets=sets, path__pretrain_network_g=file)


def test_check_makes_nothing(folder, capsys):
    before = everything(folder)
    small_classes.check(folder)
    assert everything(folder) == before
    text = capsys.readouterr().out
    assert 'datasets.train (train): 48 samples' in text or 'datasets.train (train): 48 pictures' in text
    assert 'no mistakes found' in text


def test_tensorboard_has_curves_labels_and_confusion(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small_classes.train(folder, logger__use_tb_logger=True)
    events = EventAccumulator(str(folder / 'tb_logger/classes'), size_guidance={'images': 0})
    events.Reload()
    tags = events.Tags()
    assert {'metrics/seen/accuracy', 'metrics/seen/ece', 'losses/l_cls'} <= set(tags['scalars'])
    assert {'seen/labels', 'seen/confusion'} <= set(tags['images'])
    assert len(events.Images('seen/confusion')) == 2


def test_sections_that_split_one_folder_in_different_ways_are_refused(folder):
    for key, value in (('split_seed', 1), ('held_out', 0.3)):
        with pytest.raises(ValueError, match=rf'datasets.val.{key}: must be that of datasets.train, {value}, not 0'):
            small_classes.check(folder, **{f'datasets__train__{key}': value})


def test_a_domain_that_is_trained_on_is_not_called_unseen(folder, capsys):
    other = {'datasets__train__test_domains': ['day'], 'datasets__val__test_domains': ['day']}
    with pytest.raises(ValueError, match=r'datasets.test_0.test_domains: night is trained on, and so is not unseen'):
        small_classes.check(folder, **other)
    small_classes.check(folder, **other, datasets__test_0__seen=True)
    assert 'no mistakes found' in capsys.readouterr().out


def test_held_out_parts_are_seen_without_being_called_so(folder):
    sets = small_classes.options(folder)['datasets']
    sets['test_1'] = {**sets['test_0'], 'name': 'parts', 'test_domains': None, 'train_domains': ['day', 'dusk']}
    small_classes.train(folder, datasets=sets, train__total_iter=1)
    results = json.loads((folder / 'experiments/classes/results.json').read_text())
    assert results['seen'] == ['parts']


@pytest.mark.parametrize('label', [-1, 3])
def test_labels_that_no_class_has_are_named(folder, label):
    model = model_of(folder, True)
    batch = {'image': torch.zeros(2, 3, 16, 16), 'label': torch.tensor([0, label]), 'path': ['a.png', 'b.png']}
    with pytest.raises(ValueError, match=f'the label {label} for b.png, and labels are 0 to 2, of 3 classes'):
        model.batch_on_device(batch)


def test_classes_are_looked_up_without_decoding_pictures(folder, monkeypatch):
    monkeypatch.setattr('basicsr.data.domain_folder_dataset.PictureCache', None)
    monkeypatch.setattr('basicsr.data.domain_folder_dataset.without_broken', None)
    model = model_of(folder, datasets__train__cache=True, datasets__train__skip_broken=True)
    assert model.classes == list(small_classes.CLASSES)


def test_wise_ft_does_not_interpolate_a_new_head(folder):
    net = build_network({'type': 'SmallCNN', 'width': 4, 'stages': 2, 'num_classes': 7})
    save_checkpoint({'params': net.state_dict()}, folder / 'seven.pth')
    model = model_of(
        folder, True, train__wise_ft=0.5, path__pretrain_network_g=str(folder / 'seven.pth'), path__strict_load_g=False
    )
    with torch.no_grad():
        for value in model.net_g.parameters():
            value.add_(1)
    model.strategy.statistics.batches = lambda: [
        {'image': torch.randn(4, 3, 16, 16), 'label': torch.tensor([0, 1, 2, 0])}
    ]
    published = model.strategy.weights(list(model.net_g.parameters()))
    for (name, own), value in zip(model.net_g.named_parameters(), published, strict=True):
        expected = own if name.startswith('head.') else own - 0.5
        torch.testing.assert_close(value, expected.detach())
