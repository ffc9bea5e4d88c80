import copy
import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import ldt
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from basicsr.models.sr_model import SRModel
from basicsr.models.tiling import tiled
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.runs.stopping import StopSignals
from basicsr.utils.misc import set_random_seed
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY

GOLDEN = json.loads((Path(__file__).parents[2] / 'golden' / 'framework.json').read_text())


@pytest.mark.parametrize('case', GOLDEN['tiles']['cases'])
def test_golden_tiles(case):
    expected = GOLDEN['tiles']['cases'][case]
    size, scale = case.split(' x')
    height, width, scale = *map(int, size.split('x')), int(scale)
    rng = np.random.Generator(np.random.PCG64([GOLDEN['seed'], height, width]))
    lq = torch.from_numpy(rng.random((1, 3, height, width), dtype=np.float32))

    def network(x):
        ramp = 0.1 * torch.linspace(0, 1, x.shape[-1] * scale)
        return 0.5 * torch.nn.functional.interpolate(x, scale_factor=scale) + x.mean() + ramp

    output = tiled(network, lq, scale)
    assert list(output.shape) == expected['shape']
    for channel, row, column, value in expected['picked']:
        assert output[0, channel, row, column].item() == pytest.approx(value, abs=1e-6)
    assert output.mean().item() == pytest.approx(expected['mean'], abs=1e-6)
    assert output.std().item() == pytest.approx(expected['std'], abs=1e-6)


def test_tile_size_and_overlap_are_options():
    lq, seen = torch.rand(1, 1, 20, 20), []

    def network(x):
        seen.append(tuple(x.shape[-2:]))
        return x

    assert torch.equal(tiled(network, lq, 1, tile=11, overlap=0.2), lq)
    assert seen == [(12, 12)] * 4
    assert torch.equal(tiled(network, lq, 1, tile=0), lq)
    assert seen[-1] == (20, 20)
    for arguments in ({'tile': -1}, {'overlap': 1.0}):
        with pytest.raises(ValueError, match=r'val\.tile_size'):
            tiled(network, lq, 1, **arguments)


def test_golden_learning_rates():
    for (name, expected), make in zip(
        GOLDEN['lr'].items(),
        (
            lambda optimizer: MultiStepRestartLR(optimizer, [4, 8, 10], 0.5, [0, 12], [1, 0.5]),
            lambda optimizer: CosineAnnealingRestartLR(optimizer, [6, 6, 8], [1, 0.5, 0.5], 1e-7),
        ),
        strict=True,
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=GOLDEN['lr_start'])
        scheduler, rates = make(optimizer), []
        for _ in expected:
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            scheduler.step()
        assert rates == pytest.approx(expected, rel=1e-9), name


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Two folders of pairs, x2: smooth random pictures and their halves."""
    folder = tmp_path_factory.mktemp('pairs')
    rng = np.random.default_rng(0)
    for part in ('HR', 'LR'):
        (folder / part).mkdir()
    for index in range(3):
        gt = cv2.resize(rng.integers(0, 256, (8, 9, 3)).astype(np.uint8), (36, 32), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / 'HR' / f'{index}.png'), gt)
        cv2.imwrite(str(folder / 'LR' / f'{index}.png'), cv2.resize(gt, (18, 16), interpolation=cv2.INTER_AREA))
    return folder


def options(pictures, tmp_path, model_type='SRModel', **train):
    pair = {'type': 'PairedImageDataset', 'scale': 2}
    pair.update(dataroot_gt=str(pictures / 'HR'), dataroot_lq=str(pictures / 'LR'))
    paths = {key: str(tmp_path / key) for key in ('models', 'training_states', 'visualization')}
    for path in paths.values():
        Path(path).mkdir(exist_ok=True)
    metric = {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}
    return {
        'name': 'trial',
        'model_type': model_type,
        'scale': 2,
        **{'num_gpu': 0, 'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1, 'manual_seed': 0},
        'datasets': {
            'train': {**pair, 'phase': 'train', 'gt_size': 16, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0},
            'val': {**pair, 'phase': 'val', 'name': 'pairs'},
        },
        'network_g': {
            **{'type': 'MambaIR', 'upscale': 2, 'embed_dim': 30, 'depths': [1], 'd_state': 2, 'mlp_ratio': 1.0},
            **{'upsampler': 'pixelshuffledirect', 'drop_path_rate': 0},
        },
        'path': {**paths, 'experiments_root': str(tmp_path)},
        'train': {
            'total_iter': 10,
            'optim_g': {'type': 'Adam', 'lr': 1e-3, 'betas': [0, 0.99]},
            'pixel_opt': {'type': 'L1Loss'},
            **train,
        },
        'val': {'metrics': {'psnr': metric}},
    }


def loader(opt, phase='val'):
    section = opt['datasets'][phase]
    return build_dataloader(build_dataset(section), section, num_gpu=0, seed=0)


def train(model, opt, iterations, first=1):
    batches = list(loader(opt, 'train'))
    for iteration in range(first, first + iterations):
        model.update_learning_rate(iteration)
        model.train_step(batches[iteration % len(batches)], iteration)
    return model


def branches(model):
    """The decomposition that a model trained by LDT has made."""
    return model.strategy.decomposition


def trained(model):
    """What the optimizer steps."""
    return list(model.strategy.parameters().values())


def build(opt):
    set_random_seed(0)
    return build_model(opt)


def test_sr_model_trains_validates_and_saves_what_it_validated(pictures, tmp_path):
    opt = options(pictures, tmp_path, scheduler={'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0.5})
    model = build(opt)
    model.validation(loader(opt), 0, None)
    before = model.metric_results['psnr']
    train(model, opt, 30)
    model.validation(loader(opt), 30, None, save_img=True)
    after = model.metric_results['psnr']
    assert after > before
    assert model.get_current_learning_rate() == [5e-4]
    assert [name for name, _ in model.image_results] == ['0', '1', '2']
    assert after == pytest.approx(np.mean([scores['psnr'] for _, scores in model.image_results]))
    assert model.best_metric_results['pairs']['psnr'] == {'better': 'higher', 'val': after, 'iter': 30}
    assert cv2.imread(str(tmp_path / 'visualization' / '1' / '1_30.png')).shape == (32, 36, 3)
    assert model.net_g.training

    model.save(0, 30)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models' / 'net_g_30.pth')
    loaded = build({**opt, 'is_train': False})
    loaded.validation(loader(opt), 'again', None)
    assert loaded.metric_results['psnr'] == pytest.approx(after, abs=1e-9)


def test_moving_average_is_what_is_tested(pictures, tmp_path):
    opt = options(pictures, tmp_path, ema_decay=0.9)
    model = build(opt)
    start = [parameter.clone() for parameter in model.net_g_ema.parameters()]
    train(model, opt, 1)
    for average, first, weight in zip(model.net_g_ema.parameters(), start, model.net_g.parameters(), strict=True):
        assert torch.allclose(average, 0.9 * first + 0.1 * weight, atol=1e-7)
    with model.published() as net:
        assert net is model.net_g_ema
    model.save_weights(1)
    assert set(load_checkpoint(tmp_path / 'models' / 'net_g_1.pth')) == {'params', 'params_ema'}


LDT = {'scoring_batches': 3, 'exchange_every': 1, 'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]}


def test_ldt_model_publishes_the_composite(pictures, tmp_path):
    opt = options(pictures, tmp_path, 'LDTModel', ldt=LDT)
    model = build(opt)
    model.before_training(loader(opt, 'train'))
    model.validation(loader(opt), 0, None)
    before = model.metric_results['psnr']
    train(model, opt, 30)
    assert set(model.log_dict) == {'l_pix_primary', 'l_pix_auxiliary'}
    model.validation(loader(opt), 30, None)
    assert model.metric_results['psnr'] > before
    model.save_weights(30)
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_30.pth')['params']
    composite = branches(model).composite_state_dict()
    assert list(saved) == list(composite)
    assert all(torch.equal(saved[name], composite[name]) for name in saved)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models' / 'net_g_30.pth')
    alone = build({**opt, 'is_train': False, 'model_type': 'MambaIRModel'})
    alone.validation(loader(opt), 'alone', None)
    assert alone.metric_results['psnr'] == pytest.approx(model.metric_results['psnr'], abs=1e-9)
    assert (tmp_path / 'layer_scores.png').stat().st_size > 10_000
    partition = json.loads((tmp_path / 'partition.json').read_text())
    assert partition['stable'] == branches(model).partition.stable


def test_ldt_run_is_resumed(pictures, tmp_path):
    opt = options(pictures, tmp_path, 'LDTModel', ldt=LDT)
    whole = build(opt)
    whole.before_training(loader(opt, 'train'))
    train(whole, opt, 4)
    whole.save(0, 4)
    state = load_checkpoint(tmp_path / 'training_states' / '4.state')
    other = build(opt)
    other.resume_training(copy.deepcopy(state))
    batches = list(loader(opt, 'train'))
    for model in (whole, other):
        for batch in batches * 3:
            model.train_step(batch, 5)
    for a, b in zip(trained(whole), trained(other), strict=True):
        assert torch.equal(a, b)
    assert branches(other).steps == branches(whole).steps
    plain = build(options(pictures, tmp_path))
    with pytest.raises(ValueError, match='saved by the strategy ldt, and the options ask for plain'):
        plain.resume_training(state)


def test_sr_run_is_resumed_with_its_own_weights(pictures, tmp_path):
    opt = options(pictures, tmp_path, ema_decay=0.9)
    model = train(build(opt), opt, 3)
    model.save(0, 3)
    state = load_checkpoint(tmp_path / 'training_states' / '3.state')
    of_basicsr = {key: value for key, value in state.items() if key not in ('networks', 'strategy')}
    for resumed, network in ((state, ''), (of_basicsr, str(tmp_path / 'models' / 'net_g_3.pth'))):
        opt['path'].update(resume_network=network, param_key_g='params_ema')
        other = build(opt)
        other.resume_training(resumed)
        for name in ('net_g', 'net_g_ema'):
            for a, b in zip(getattr(model, name).parameters(), getattr(other, name).parameters(), strict=True):
                assert torch.equal(a, b), name
    opt['path']['resume_network'] = str(tmp_path / 'models' / 'net_g_4.pth')
    with pytest.raises(FileNotFoundError, match='net_g_4'):
        build(opt).resume_training(of_basicsr)
    without_average = build(options(pictures, tmp_path))
    with pytest.raises(ValueError, match=r'by the strategy plain \+ ema, and the options ask for plain;'):
        without_average.resume_training(state)
    larger = {**opt, 'network_g': {**opt['network_g'], 'embed_dim': 2 * opt['network_g']['embed_dim']}}
    with pytest.raises(ValueError, match=r'the training state does not fit the network MambaIR:\n  .*in the file'):
        build(larger).resume_training(state)
    other = options(pictures, tmp_path, ema_decay=0.9, optim_g={'type': 'SGD', 'lr': 1e-3})
    with pytest.raises(ValueError, match=r'optim_g\.type: .* saved with Adam, and the options ask for SGD'):
        build(other).resume_training(state)
    with pytest.raises(ValueError, match=r'by the strategy plain, and the options ask for plain \+ ema'):
        build(opt).resume_training(without_average.training_state())


@ARCH_REGISTRY.register()
class Normed(torch.nn.Sequential):
    def __init__(self):
        convolutions = torch.nn.Conv2d(3, 8, 3, 1, 1), torch.nn.Conv2d(8, 12, 3, 1, 1)
        super().__init__(convolutions[0], torch.nn.BatchNorm2d(8), convolutions[1], torch.nn.PixelShuffle(2))


def test_composite_has_batch_statistics_of_its_own(pictures, tmp_path):
    opt = options(pictures, tmp_path, 'LDTModel', ldt=LDT)
    opt['network_g'] = {'type': 'Normed'}
    model = build(opt)
    model.train_loader = loader(opt, 'train')
    model.strategy.statistics.count = 2
    model.before_training(model.train_loader)
    train(model, opt, 5)
    primary = {name: value.clone() for name, value in branches(model).primary.named_buffers()}
    model.save_weights(5)
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_5.pth')['params']
    assert not torch.equal(saved['1.running_mean'], primary['1.running_mean'])
    with model.published() as net:
        assert torch.equal(saved['1.running_mean'], net[1].running_mean)
    assert all(torch.equal(value, primary[name]) for name, value in branches(model).primary.named_buffers())


@pytest.mark.parametrize('model_type', ['SRModel', 'LDTModel'])
def test_a_signal_ends_a_validation_after_the_picture_in_hand(pictures, tmp_path, monkeypatch, model_type):
    opt = options(pictures, tmp_path, model_type, **({'ldt': LDT} if model_type == 'LDTModel' else {}))
    model, tested = build(opt), []
    model.before_training(loader(opt, 'train'))
    train(model, opt, 3)

    def tensors():
        state = model.training_state()['strategy']['state']
        return state.get('network') or {branch: state['decomposition'][branch] for branch in ('primary', 'auxiliary')}

    before = copy.deepcopy(tensors())

    def stop(batch, dataset_name):
        tested.append(dataset_name)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(model, 'note_loss', stop)
    with StopSignals() as signals, signals.breaking_off():
        model.validation(loader(opt), 3, None)
    assert tested == ['pairs'] and not model.image_results
    assert model.net_g.training
    torch.testing.assert_close(tensors(), before, rtol=0, atol=0)


@LOSS_REGISTRY.register()
class Edges(torch.nn.Module):
    """A loss as PerceptualLoss gives it: (features, style), None for what it does not weigh."""

    def forward(self, pred, target):
        return (pred.diff(dim=-1) - target.diff(dim=-1)).abs().mean(), None


@pytest.mark.parametrize('pixel', [{'type': 'L1Loss'}, None])
def test_a_loss_on_features_is_added_to_that_on_pixels(pictures, tmp_path, pixel):
    opt = options(pictures, tmp_path, pixel_opt=pixel, perceptual_opt={'type': 'Edges'}, swad={'converged': 1})
    model, batch = build(opt), next(iter(loader(opt, 'train')))
    with torch.no_grad():
        output = model.net_g(batch['lq'])
    expected = {'l_pix': (output - batch['gt']).abs().mean()} if pixel else {}
    expected['l_percep'] = Edges()(output, batch['gt'])[0]
    assert model.loss(model.net_g, batch).item() == pytest.approx(sum(expected.values()).item(), rel=1e-6)
    model.train_step(batch, 1)
    assert model.get_current_log() == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-6)
    model.validation(loader(opt), 1, None)
    assert len(model._validation_losses) == 3


def test_model_written_for_basicsr_runs(pictures, tmp_path):
    class TwoLosses(SRModel):
        def init_training_settings(self):
            super().init_training_settings()
            assert self.cri_perceptual is None

        def optimize_parameters(self, current_iter):
            self.optimizer_g.zero_grad()
            self.output = self.net_g(self.lq)
            loss = (self.output - self.gt).square().mean()
            loss.backward()
            self.optimizer_g.step()
            self.log_dict = self.reduce_loss_dict({'l_mine': loss})

        def feed_data(self, data):
            self.lq = data['lq'].to(self.device)
            if 'gt' in data:
                self.gt = data['gt'].to(self.device)

    opt = options(pictures, tmp_path, pixel_opt=None)
    set_random_seed(0)
    model = train(TwoLosses(opt), opt, 2)
    assert not hasattr(model, 'metric_results')
    model.validation(loader(opt), 2, None)
    assert model.metric_results['psnr'] > 0 and 'l_mine' in model.get_current_log()
    model.save(-1, -1)
    assert (tmp_path / 'models' / 'net_g_latest.pth').exists()
    assert not list((tmp_path / 'training_states').iterdir())


def test_warmup_ends_at_the_full_rate(pictures, tmp_path):
    model = build(options(pictures, tmp_path))
    rates = []
    for iteration in range(1, 7):
        model.update_learning_rate(iteration, warmup_iter=4)
        rates.append(model.get_current_learning_rate()[0])
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'stable_decay': [0.99, 0.5]}, r'train\.ldt\.stable_decay: .*base \+ span <= 1'),
        ({'unstable_decay': ['a', 0.5]}, r'train\.ldt\.unstable_decay: must be a list of 2 numbers'),
        ({'update': 'fixed', 'fixed_decay': 1.0}, r'train\.ldt\.fixed_decay: .*below 1'),
        ({'unstable_prefixes': 'upsample'}, r'train\.ldt\.criterion: must be prefix'),
        ({'strategy': 'both'}, r'train\.ldt\.strategy: must be dual or alternating'),
        ({'granularity': 'layer'}, r'train\.ldt\.granularity: must be parameter or module'),
        ({'stable_time': [10, 20], 'stable_decay': [0.9, 0]}, r'stable_time: says the same as stable_decay'),
        (
            {'fixed_time': '5 iterations'},
            r'fixed_time: must be a number of at least 1 or a share of',
        ),
        ({'unstable_time': ['5%']}, r'unstable_time: must be a list of 2'),
        ({'warmup_iter': 5}, r'train\.ldt\.head_prefixes: missing, and the network \(MambaIR\) has no head_prefixes'),
        ({'warmup_iter': 5, 'head_prefixes': 'upsampel'}, r'head_prefixes: no layer has .*; near it: upsample'),
        ({'unstabel_ratio': 0.4}, "train.ldt.unstabel_ratio: unknown option; did you mean 'unstable_ratio'"),
        ({'criterion': 'varience'}, 'train.ldt.criterion'),
        ({'unstable_ratio': 1}, 'train.ldt.unstable_ratio'),
        ({'unstable_ratio': 'half'}, 'train.ldt.unstable_ratio'),
        ({'exchange_every': 0}, 'train.ldt.exchange_every'),
        ({'update': 'slow'}, 'train.ldt.update'),
        ({'stable_decay': 0.9}, 'train.ldt.stable_decay'),
        ({'criterion': 'prefix'}, r'train\.ldt\.unstable_prefixes: missing, and the network'),
        ({'criterion': 'prefix', 'unstable_prefixes': 'norms'}, r'unstable_prefixes: no layer has the prefix'),
    ],
)
def test_mistakes_in_the_ldt_section_stop_before_training(pictures, tmp_path, section, message):
    with pytest.raises(ValueError, match=message):
        build(options(pictures, tmp_path, 'LDTModel', ldt=section))


@pytest.mark.parametrize(
    ('section', 'unstable'),
    [
        ({'criterion': 'prefix', 'unstable_prefixes': ['upsample', 'norm']}, {'upsample', 'norm'}),
        ({'criterion': 'random', 'unstable_ratio': 0.25}, None),
        ({'criterion': 'between_sample_variance', 'scoring_batches': 2}, None),
        ({'granularity': 'module', 'scoring_batches': 2}, None),
        ({'granularity': 'module', 'criterion': 'prefix', 'unstable_prefixes': ['layers.0']}, {'layers'}),
        ({'unstable_ratio': 'auto', 'scoring_batches': 2, 'strategy': 'alternating'}, None),
    ],
)
def test_other_partitions(pictures, tmp_path, section, unstable):
    opt = options(pictures, tmp_path, 'LDTModel', ldt={**section, 'update': 'fixed', 'fixed_decay': 0.5})
    model = build(opt)
    model.before_training(loader(opt, 'train'))
    partition = branches(model).partition
    assert partition.criterion == section.get('criterion', 'variance')
    assert bool(partition.layers) == ('granularity' in section)
    assert set(branches(model).decay.values()) == {0.5}
    if unstable:
        assert {name.split('.')[0] for name in partition.unstable} == unstable
        assert 'layer scores' not in model.artifacts()
    train(model, opt, 1)
    assert ldt.Partition.load(tmp_path / 'partition.json') == partition


@pytest.mark.parametrize(
    ('section', 'interval', 'stable'),
    [
        ({'exchange_every': 4, 'stable_time': [40, '50%'], 'unstable_time': ['10%', '1000%']}, 4, (40, 200)),
        ({'strategy': 'alternating', 'alternate_every': 4, 'update': 'fixed', 'fixed_time': '20%'}, 8, (80, 80)),
    ],
)
def test_decays_by_time_constants(pictures, tmp_path, logged, section, interval, stable):
    opt = options(pictures, tmp_path, 'LDTModel', ldt={**section, 'criterion': 'random'}, total_iter=400)
    model = build(opt)
    model.before_training(loader(opt, 'train'))
    assert branches(model).exchange_every == interval
    names, (fastest, slowest) = branches(model).partition.stable, stable
    first, last = branches(model).decay[names[0]], branches(model).decay[names[-1]]
    assert first == pytest.approx(1 - interval / fastest)
    span = interval / fastest - interval / slowest
    assert last == pytest.approx(1 - interval / fastest + span * (len(names) - 1) / len(names))
    told = [record.getMessage() for record in logged.records if 'Time constants of the stable' in record.getMessage()]
    assert f'layers: {fastest} to ' in told[0] and 'the run has 400' in told[0]


def test_a_run_in_one_network_is_resumed_and_split_anew(pictures, tmp_path):
    section = {**LDT, 'strategy': 'alternating', 'alternate_every': 3, 'repartition_every': 5}
    opt = options(pictures, tmp_path, 'LDTModel', ldt=section)

    class Batches(list):
        sampler = None

    batches = Batches(batch for _ in range(12) for batch in loader(opt, 'train'))

    def go_on(model, first, last):
        model.train_loader = batches
        for number in range(first, last + 1):
            model.train_step(batches[number], number)
        return model

    whole = build(opt)
    network = whole.net_g
    whole.before_training(batches)
    assert branches(whole).network is network is whole.net_g, 'there is one network'
    go_on(whole, 1, 4).save(0, 4)
    other = build(opt)
    other.resume_training(load_checkpoint(tmp_path / 'training_states' / '4.state'))
    assert branches(other).branch_names == ('auxiliary',)
    for model in (whole, other):
        go_on(model, 5, 11)
        assert set(model.log_dict) == {'l_pix_primary', 'l_pix_auxiliary'}
    for a, b in ((whole, other), (other, whole)):
        assert branches(a).partition == branches(b).partition and branches(a).steps == 11
        for name, value in branches(a).composite_state_dict().items():
            assert torch.equal(value, branches(b).composite_state_dict()[name]), name
    assert all(torch.equal(a, b) for a, b in zip(whole.net_g.parameters(), other.net_g.parameters(), strict=True))
    whole.validation(loader(opt), 11, None)
    whole.save_weights(11)
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_11.pth')['params']
    assert all(torch.equal(saved[name], value) for name, value in branches(whole).composite_state_dict().items())
    with pytest.raises(ValueError, match=r'train\.ldt\.strategy: .* saved with alternating, .* ask for dual'):
        dual = build(options(pictures, tmp_path, 'LDTModel', ldt=LDT))
        dual.resume_training(load_checkpoint(tmp_path / 'training_states' / '4.state'))


def test_short_run_with_the_papers_coefficients_is_warned_about(pictures, tmp_path, logged):
    opt = options(pictures, tmp_path, 'LDTModel', ldt={'scoring_batches': 2})
    model = build(opt)
    model.before_training(loader(opt, 'train'))
    warnings = logged.warnings()
    assert len(warnings) == 2
    assert 'stable layers have a time constant longer than the run' in warnings[0]


@pytest.mark.parametrize('model_type', ['SRModel', 'LDTModel'])
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'optim_g': {'type': 'Adamm', 'lr': 1e-3}}, "torch.optim has no 'Adamm'; did you mean 'Adam'"),
        (
            {'optim_g': {'type': 'Adam', 'lr': 1e-3, 'beta': 1}},
            "train.optim_g: Adam takes no option 'beta'; did you mean 'betas'",
        ),
        ({'scheduler': {'type': 'StepLR'}}, 'train.scheduler.type'),
        ({'scheduler': {'type': 'MultiStepLR', 'milestone': [1]}}, "no option 'milestone'; did you mean 'milestones'"),
        ({'optim_g': {'type': 'Adam', 'lr': 1e-3, 'betas': 3}}, 'train.optim_g.betas'),
        ({'optim_g': {'type': 'Adam', 'lr': -1}}, 'train.optim_g: Adam: .*learning rate'),
        ({'pixel_opt': None}, 'train.pixel_opt: missing'),
    ],
)
def test_mistakes_in_the_training_section(pictures, tmp_path, model_type, changes, message):
    with pytest.raises(ValueError, match=message):
        build(options(pictures, tmp_path, model_type, **changes))


def test_an_unknown_optimizer_is_what_basicsr_raises(pictures, tmp_path):
    with pytest.raises(NotImplementedError, match=r"torch\.optim has no 'Adamm'"):
        build(options(pictures, tmp_path, optim_g={'type': 'Adamm', 'lr': 1e-3}))


def test_a_metric_that_a_resumed_run_adds_is_counted_from_there(pictures, tmp_path):
    model = build(options(pictures, tmp_path))
    better = {'type': 'calculate_psnr', 'crop_border': 2}
    model.opt['val']['metrics'] = {'psnr': better, 'error': {**better, 'better': 'higher'}}
    model._initialize_best_metric_results('val')
    model._update_best_metric_result('val', 'psnr', 30.0, 10)
    model._update_best_metric_result('val', 'error', 5.0, 10)
    model.opt['val']['metrics'] = {'psnr': better, 'error': {**better, 'better': 'lower'}, 'y': better}
    model._initialize_best_metric_results('val')
    model._update_best_metric_result('val', 'y', 20.0, 20)
    model._update_best_metric_result('val', 'error', 7.0, 20)
    assert model.best_metric_results['val'] == {
        'psnr': {'better': 'higher', 'val': 30.0, 'iter': 10},
        'error': {'better': 'lower', 'val': 7.0, 'iter': 20},
        'y': {'better': 'higher', 'val': 20.0, 'iter': 20},
    }


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda state: state['state'][0].update(exp_avg=torch.zeros(2)),
            r'exp_avg of parameter 0 .* shape \(2,',
        ),
        (lambda state: state['state'][0].update(step=torch.zeros(3)), r'step of parameter 0 .* shape \(3,'),
        (lambda state: state['state'][0].pop('exp_avg'), 'exp_avg of parameter 0 is missing'),
        (lambda state: state['param_groups'][0].pop('lr'), 'lr is missing from what was saved of a Adam'),
        (lambda state: state['param_groups'][0].update(eps='small'), "eps was saved as 'small', and is a number"),
    ],
)
def test_what_an_optimizer_would_take_on_trust_is_looked_at(pictures, tmp_path, change, message):
    opt = options(pictures, tmp_path)
    model = train(build(opt), opt, 2)
    state = copy.deepcopy(model.training_state())
    build(opt).resume_training(copy.deepcopy(state))
    change(state['optimizers'][0])
    with pytest.raises(ValueError, match=message):
        build(opt).resume_training(state)
