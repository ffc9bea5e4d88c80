import argparse
import random
from collections import OrderedDict
from pathlib import Path

import pytest
import yaml
from setuptools import find_packages

import basicsr.data  # registers what option files name
import basicsr.models  # noqa: F401
from basicsr.models.sr_model import SRModel
from basicsr.options.file import load_options, merge, ordered_yaml
from basicsr.options.resolve import check_files, dict2str, override, parse_options, trained_first, yaml_load
from basicsr.runs.command_line import make_parser
from basicsr.utils import check_resume, options
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

ROOT = Path(__file__).parents[3]
MINIMAL = """
name: trial
model_type: SRModel
scale: 2
network_g: {type: Bicubic, upscale: 2}
datasets:
  val_1: {type: PairedImageDataset, dataroot_gt: data/HR, dataroot_lq: data/LR}
"""
TRAINING = (
    MINIMAL.replace('val_1:', 'train:').replace(
        'dataroot_gt', 'gt_size: 8, batch_size_per_gpu: 1, num_worker_per_gpu: 0, dataroot_gt'
    )
    + """
train: {total_iter: 5e3, optim_g: {type: Adam, lr: 1e-4}, pixel_opt: {type: L1Loss}}
"""
)


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def parse(tmp_path, text=MINIMAL, assignments=(), is_train=False):
    path = write(tmp_path, 'trial.yml', text)
    args = argparse.Namespace(opt=str(path), set=list(assignments), launcher='none', auto_resume=False)
    return parse_options(str(tmp_path), is_train, args)


def test_numbers_tags_and_nothing(tmp_path):
    text = 'a: 1e-4\nb: 1E5\nc: !!float 5e3\nd: 2.5e+3\ne: ~\nf: 1.\ng: 0.99\nh: 1e4x\ni: "1e-4"\nj: -3e2'
    assert yaml_load(write(tmp_path, 'a.yml', text)) == {
        **{'a': 1e-4, 'b': 1e5, 'c': 5000.0, 'd': 2500.0, 'e': None, 'f': 1.0, 'g': 0.99, 'h': '1e4x', 'i': '1e-4'},
        'j': -300.0,
    }


def test_base_is_inherited_and_a_changed_type_replaces(tmp_path):
    (tmp_path / 'sub').mkdir()
    write(tmp_path, 'base.yml', 'a: {x: 1, y: 2}\nnet: {type: A, width: 3}\nloss: {type: L1, w: 1}\nlist: [1, 2]')
    write(tmp_path, 'mid.yml', '_base_: base.yml\na: {y: 3}')
    path = write(tmp_path / 'sub', 'top.yml', '_base_: ../mid.yml\nnet: {type: B}\nloss: {w: 2}\nlist: [3]')
    assert yaml_load(path) == {
        'a': {'x': 1, 'y': 3},
        'net': {'type': 'B'},
        'loss': {'type': 'L1', 'w': 2},
        'list': [3],
    }


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('_base_: b.yml', r'inherits from itself: b\.yml -> b\.yml'),
        ('_base_: who.yml', r'no option file .*who\.yml \(`_base_` of .*b\.yml\)'),
        ('a: [1, 2', r'b\.yml, line 1'),
        ('a: 1\nb: 2\na: 3', r"b\.yml, line 3: duplicate key 'a'"),
        ('just words', 'holds no options'),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        yaml_load(write(tmp_path, 'b.yml', text))


def test_command_line_values_are_yaml():
    opt = {'train': {'lr': 1, 'ldt': None}, 'name': 'a'}
    override(opt, ['train.lr=1e-4', 'train.ldt.ratio=0.4', 'path.resume=~', 'train.betas=[0, 0.9]', 'name=x=y'])
    assert opt == {
        'train': {'lr': 1e-4, 'ldt': {'ratio': 0.4}, 'betas': [0, 0.9]},
        'path': {'resume': None},
        'name': 'x=y',
    }
    for assignment, message in {
        'train.lr': 'a.b=value',
        'name.x=1': 'name is no section',
        'train.lr=[': '--set',
    }.items():
        with pytest.raises(ValueError, match=message):
            override(opt, [assignment])


def test_resolved_options(tmp_path):
    opt, args = parse(tmp_path, TRAINING, ['manual_seed=3'], is_train=True)
    assert opt['datasets']['train']['phase'] == 'train'
    assert opt['datasets']['train']['scale'] == 2
    assert opt['datasets']['train']['dataroot_gt'] == str(tmp_path / 'data/HR')
    assert opt['path']['models'] == str(tmp_path / 'experiments/trial/models')
    assert (opt['rank'], opt['world_size'], opt['dist'], opt['manual_seed']) == (0, 1, False, 3)
    assert yaml_load(write(tmp_path, 'again.yml', dict2str(args.merged))) == args.merged
    opt, _ = parse(tmp_path, assignments=['path.output_root=elsewhere'])
    assert opt['path']['results_root'] == str(tmp_path / 'elsewhere/results/trial')
    assert opt['datasets']['val_1']['phase'] == 'val'
    assert 'models' not in opt['path']


def test_all_mistakes_at_once(tmp_path):
    text = (
        MINIMAL.replace('dataroot_gt', 'dataroot_gtt').replace('name: trial', 'nam: trial') + 'train: {total_iters: 5}'
    )
    with pytest.raises(ValueError) as error:
        parse(tmp_path, text)
    for part in (
        "nam: unknown option; did you mean 'name'?",
        "datasets.val_1.dataroot_gtt: unknown option; did you mean 'dataroot_gt'?",
        "train.total_iters: unknown option; did you mean 'total_iter'?",
        'name: missing',
    ):
        assert part in str(error.value)


def test_metrics_and_the_best_are_checked_before_a_run(tmp_path):
    metrics = """
val: {metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: true, better: higher}}}
logger: {save_best: psnr}
"""
    parse(tmp_path, MINIMAL + metrics)
    changes = ['val.metrics.psnr.test_y_chanel=true', 'val.metrics.vif.type=calculate_vif', 'logger.save_best=ssim']
    with pytest.raises(ValueError) as error:
        parse(tmp_path, MINIMAL + metrics, changes)
    for part in (
        "val.metrics.psnr.test_y_chanel: unknown option; did you mean 'test_y_channel'?",
        "val.metrics.vif.type: 'calculate_vif' is no metric; there are accuracy, balanced_accuracy, calculate_",
        "logger.save_best: 'ssim' is none of val.metrics: psnr, vif",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"metrics\.psnr\.better: must be higher or lower, not 'hihger'; did you mean"):
        parse(tmp_path, MINIMAL + metrics, ['val.metrics.psnr.better=hihger'])


def test_models_and_data_sets_of_users_have_their_own_keys(tmp_path, monkeypatch):
    monkeypatch.setitem(MODEL_REGISTRY._objects, 'ModelOfAUser', type('ModelOfAUser', (SRModel,), {}))

    class DatasetOfAUser:
        def __init__(self, opt):
            self.opt = opt

    monkeypatch.setitem(DATASET_REGISTRY._objects, 'DatasetOfAUser', DatasetOfAUser)
    text = MINIMAL.replace('SRModel', 'ModelOfAUser').replace('PairedImageDataset', 'DatasetOfAUser')
    text = text.replace('dataroot_gt:', 'blur_kernel_size: 21, dataroot_gt:') + 'network_d: {type: Mine}\n'
    opt, _ = parse(tmp_path, text + 'train: {fft_opt: {w: 1}}')
    assert opt['train'] == {'fft_opt': {'w': 1}}
    assert opt['network_d'] == {'type': 'Mine'}
    with pytest.raises(ValueError) as error:
        parse(tmp_path, text + 'train: {fft_opt: {w: 1}, total_iter: many}\nlogger: {print_freqq: 1}')
    assert 'train.total_iter: must be a whole number' in str(error.value)
    assert "logger.print_freqq: unknown option; did you mean 'print_freq'?" in str(error.value)
    with pytest.raises(ValueError, match=r'datasets\.val_1\.blur_kernel_size: unknown option'):
        parse(tmp_path, text.replace('DatasetOfAUser', 'PairedImageDataset'))


def test_numbers_are_checked(tmp_path):
    opt, args = parse(tmp_path, MINIMAL + 'train: {total_iter: 5e3}\nval: {val_freq: !!float 2e2}')
    for number in (opt['train']['total_iter'], args.merged['train']['total_iter'], opt['val']['val_freq']):
        assert type(number) is int
    assert (opt['train'], opt['val']) == ({'total_iter': 5000}, {'val_freq': 200})
    wrong = MINIMAL.replace('scale: 2', 'scale: two').replace('name: trial', 'name: a/b')
    with pytest.raises(ValueError) as error:
        parse(tmp_path, wrong + 'train: {total_iter: -4}\nlogger: {print_freq: 1.5}\nval: {val_freq: .inf}')
    for part in (
        "scale: must be a whole number of at least 1, not 'two'",
        'train.total_iter: must be a whole number of at least 1, not -4',
        'logger.print_freq: must be a whole number of at least 1, not 1.5',
        'val.val_freq: must be a whole number of at least 1, not inf',
        'name: names a folder',
    ):
        assert part in str(error.value)
    for text, message in (('num_gpu: -1', 'num_gpu: must be auto'), ('num_gpu: many', 'num_gpu: must be auto')):
        with pytest.raises(ValueError, match=message):
            parse(tmp_path, MINIMAL + text)


def test_two_test_sets_of_one_name_are_refused(tmp_path):
    text = MINIMAL + '  test_1: &t {name: a, type: SingleImageDataset}\n  test_2: *t'
    with pytest.raises(ValueError, match="two test sets are called 'a'"):
        parse(tmp_path, text)


def test_testing_as_mambair_writes_it(tmp_path):
    opt, _ = parse(tmp_path, MINIMAL + 'val: {selfensemble_testing: true, patchwise_testing: false}')
    assert opt['val'] == {'selfensemble_testing': True, 'patchwise_testing': False}


def test_basicsrs_way_of_overriding():
    args = make_parser(is_train=True).parse_args(['--force_yml', 'train:total_iter=5', 'name=a:b', '--set', 'scale=4'])
    assert args.set == ['train.total_iter=5', 'name=a:b', 'scale=4']


def test_merged_anchors_are_no_duplicates(tmp_path):
    text = 'base: &a {x: 1}\nmid: &b\n  <<: *a\n  x: 2\ntop:\n  <<: *b\n  x: 3'
    assert yaml_load(write(tmp_path, 'a.yml', text))['top'] == {'x': 3}


def test_imports_of_a_base_come_first_and_each_is_said_with_its_place(tmp_path):
    write(tmp_path, 'base.yml', 'imports: [a.py, b.py]')
    write(tmp_path, 'other.yml', '\nimports: c.py')
    path = write(tmp_path, 'top.yml', '_base_: [base.yml, other.yml]\nimports:\n- d.py\n- a.py\n- e.py')
    opt, places = load_options(path)
    assert opt['imports'] == ['a.py', 'b.py', 'c.py', 'd.py', 'e.py']
    lines = [places['imports', index].rpartition('/')[2] for index in range(5)]
    assert lines == [f'{place}' for place in (
        'top.yml, line 4', 'base.yml, line 1', 'other.yml, line 2', 'top.yml, line 3', 'top.yml, line 5')]  # fmt: skip
    assert yaml_load(write(tmp_path, 'none.yml', '_base_: base.yml\nimports: ~')) == {'imports': None}
    assert merge({'imports': 'a.py', 'x': {'imports': [1]}}, {'imports': ['b.py'], 'x': {'imports': [2]}}) == {
        'imports': ['a.py', 'b.py'],
        'x': {'imports': [2]},
    }


def test_imports_come_before_the_check_and_are_kept_for_another_run(tmp_path):
    (tmp_path / 'mine').mkdir()
    network = 'from torch import nn\nfrom basicsr.utils.registry import ARCH_REGISTRY\n\n@ARCH_REGISTRY.register()\n'
    (tmp_path / 'mine' / 'op_net.py').write_text(
        network + 'class OpNet(nn.Module):\n    def __init__(self, width: int = 3): super().__init__()\n'
    )
    text = MINIMAL.replace('{type: Bicubic, upscale: 2}', '{type: OpNet, widht: 2}')
    with pytest.raises(ValueError, match="'OpNet' is no network"):
        parse(tmp_path, text)
    with pytest.raises(ValueError, match=r"1 mistake:\n  network_g.widht: unknown option; did you mean 'width'\?"):
        parse(tmp_path, text + 'imports: mine/op_net.py')
    opt, args = parse(
        tmp_path, text.replace('widht', 'width') + f'imports: [{tmp_path}/mine/op_net.py, mine/op_net.py]'
    )
    assert args.merged['imports'] == opt['imports'] == ['mine/op_net.py']
    with pytest.raises(FileNotFoundError, match=r'imports: there is no file .*/absent.py \[.*trial.yml, line 8\]'):
        parse(tmp_path, text.replace('widht', 'width') + 'imports: absent.py')
    with pytest.raises(ValueError, match=r'imports: must be a list of texts or text, not \[3\]'):
        parse(tmp_path, text.replace('OpNet, widht', 'Bicubic, upscale') + 'imports: [3]')
    args = argparse.Namespace(**{**vars(args), 'imports': ['mine/op_net.py'], 'opt': write(tmp_path, 'm.yml', MINIMAL)})
    assert parse_options(str(tmp_path), False, args)[1].merged['imports'] == ['mine/op_net.py']
    del ARCH_REGISTRY._objects['OpNet']


def test_yaml_load_takes_text_as_well_as_files(tmp_path, monkeypatch):
    write(tmp_path, 'base.yml', 'a: {x: 1}')
    monkeypatch.chdir(tmp_path)
    assert yaml_load('a: 1e-4\nb: [1, 2]') == {'a': 1e-4, 'b': [1, 2]}
    assert yaml_load('_base_: base.yml\na: {y: 2}') == {'a': {'x': 1, 'y': 2}}
    assert yaml_load('{a: 1}') == {'a': 1} and yaml_load('[1, 2]') == [1, 2] and yaml_load('') is None
    assert yaml_load('base.yml') == yaml_load(Path('base.yml')) == {'a': {'x': 1}}
    with pytest.raises(FileNotFoundError, match=r'there is no option file .*absent\.yml'):
        yaml_load('absent.yml')
    with pytest.raises(ValueError, match="the YAML text, line 2: duplicate key 'a'"):
        yaml_load('a: 1\na: 2')


def test_basicsrs_names_read_write_and_parse(tmp_path):
    loader, dumper = ordered_yaml()
    ordered = OrderedDict(b=1, a=OrderedDict(c=2))
    assert yaml.dump(ordered, Dumper=dumper, sort_keys=False) == 'b: 1\na:\n  c: 2\n'
    assert yaml.load('a: 1e-4', Loader=loader) == {'a': 1e-4}
    file = write(tmp_path, 'trial.yml', TRAINING)
    state = random.getstate()
    opt = options.parse(str(file), str(tmp_path))
    assert random.getstate() == state
    assert opt['is_train'] and opt['path']['models'] == str(tmp_path / 'experiments/trial/models')
    assert opt['datasets']['train']['dataroot_gt'] == str(tmp_path / 'data/HR') and opt['train']['total_iter'] == 5000
    assert (
        'models' not in options.parse(str(write(tmp_path, 'test.yml', MINIMAL)), str(tmp_path), is_train=False)['path']
    )
    with pytest.raises(ValueError, match=r'train\.total_iter: missing'):
        options.parse(str(write(tmp_path, 'test.yml', MINIMAL)), str(tmp_path))


def test_a_resumed_run_points_at_what_it_saved_unless_told_otherwise():
    def opt(**path):
        return {'network_g': {}, 'network_d': {}, 'path': {'models': 'm', 'resume_state': 's', **path}}

    resumed = opt(param_key_g='params_ema', ignore_resume_networks=['network_d'], pretrain_network_d='d.pth')
    check_resume(resumed, 40)
    assert resumed['path']['pretrain_network_g'] == 'm/net_g_40.pth'
    assert (resumed['path']['pretrain_network_d'], resumed['path']['param_key_g']) == ('d.pth', 'params')
    every = opt()
    check_resume(every, 40)
    assert every['path']['pretrain_network_d'] == 'm/net_d_40.pth'
    anew = opt(resume_state=None)
    check_resume(anew, 40)
    assert anew == opt(resume_state=None)


def test_every_package_is_installed():
    packages = set(find_packages(str(ROOT), include=['ldt', 'ldt.*', 'basicsr', 'basicsr.*']))
    folders = {path.parent for part in ('ldt', 'basicsr') for path in (ROOT / part).rglob('*.py')}
    assert packages == {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}


def test_missing_data_and_weights_are_all_named(tmp_path):
    opt, _ = parse(
        tmp_path, MINIMAL + 'data_hint: ask the authors\npath: {pretrain_network_g: pretrained_models/w.pth}'
    )
    (tmp_path / 'data' / 'HR').mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        check_files(opt)
    text = str(error.value)
    assert f'datasets.val_1.dataroot_lq: {tmp_path / "data/LR"}' in text
    assert 'dataroot_gt' not in text
    assert f'path.pretrain_network_g: {tmp_path / "pretrained_models/w.pth"}' in text
    assert 'ask the authors' in text and 'pretrained_models/README.md' in text
    (tmp_path / 'data' / 'LR').mkdir()
    (tmp_path / 'pretrained_models').mkdir()
    (tmp_path / 'pretrained_models' / 'w.pth').touch()
    check_files(opt)
    assert opt['path']['pretrain_network_g'].endswith('w.pth')


def test_weights_of_a_training_that_has_not_ended_are_trained_on(tmp_path):
    models, states = (tmp_path / 'experiments/twin' / name for name in ('models', 'training_states'))
    text = 'compare: {twin: {pretrain_network_g: experiments/twin/models/net_g_best.pth, pretrain_opt: twin.yml}}'
    opt, _ = parse(tmp_path, MINIMAL + text)
    assert list(trained_first(opt)) == ['compare.twin']
    for folder in (models, states):
        folder.mkdir(parents=True)
    (models / 'net_g_best.pth').touch()
    assert list(trained_first(opt)) == ['compare.twin'], 'the best so far comes with the first validation'
    (models / 'net_g_latest.pth').touch()
    assert not trained_first(opt)
    (models / 'net_g_latest.pth').unlink()
    states.rmdir()
    assert not trained_first(opt), 'weights that somebody put there'
