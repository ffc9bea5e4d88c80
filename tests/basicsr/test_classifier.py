"""Classes of pictures by a checkpoint alone, and by `scripts/inference.py`."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from basicsr.archs import build_network
from basicsr.classifier import Classifier
from basicsr.inference import Restorer
from basicsr.runs.checkpoint import save_checkpoint
from scripts import inference
from tests import small_classes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('classifier')
    small_classes.make_archive(folder / 'archive')
    small_classes.train(folder, train__total_iter=60, val__val_freq=20, logger__save_best='nll')
    return folder


@pytest.fixture
def checkpoint(folder):
    return folder / 'experiments/classes/models/net_g_best.pth'


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['inference.py', *map(str, arguments)])
    inference.main()


def test_probabilities_are_those_of_the_test(folder, checkpoint):
    classifier = Classifier(checkpoint)
    assert classifier.classes == list(small_classes.CLASSES)
    with open(folder / 'experiments/classes/visualization/night/predictions_classes.csv') as file:
        rows = list(csv.DictReader(file))
    for row in rows[::7]:
        (found,) = classifier(classifier.read(row['file'])[None]).tolist()
        assert found == pytest.approx([float(row[name]) for name in classifier.classes], abs=2e-6)


@pytest.mark.parametrize('extension', ['csv', 'json'])
def test_a_table_of_a_folder(folder, checkpoint, extension, monkeypatch, tmp_path, capsys):
    output = tmp_path / f'classes.{extension}'
    run(monkeypatch, folder / 'archive' / 'night', output, '-c', checkpoint)
    assert 'the classes of 30 pictures written' in capsys.readouterr().out
    if extension == 'json':
        found = {file: (one['class'], one['probabilities']) for file, one in json.loads(output.read_text()).items()}
    else:
        with open(output) as file:
            found = {
                row['file']: (row['class'], {name: float(row[name]) for name in small_classes.CLASSES})
                for row in csv.DictReader(file)
            }
    assert len(found) == 30
    right = 0
    for file, (name, probabilities) in found.items():
        assert name == max(probabilities, key=probabilities.get)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        right += f'/{name}/' in file
    assert right >= 27


def test_a_broken_picture_is_named_and_the_others_are_there(folder, checkpoint, monkeypatch, tmp_path, capsys):
    shutil.copytree(folder / 'archive' / 'night' / 'disc', tmp_path / 'pictures')
    (tmp_path / 'pictures' / '03.png').write_bytes(b'no picture')
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path / 'pictures', tmp_path / 'classes.json', '-c', checkpoint)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert '1 of 10 pictures could not be classified' in message and '03.png' in message
    assert len(json.loads((tmp_path / 'classes.json').read_text())) == 9


def test_a_table_that_is_there_stays(folder, checkpoint, monkeypatch, tmp_path, capsys):
    (tmp_path / 'classes.csv').write_text('mine')
    with pytest.raises(SystemExit):
        run(monkeypatch, folder / 'archive' / 'night', tmp_path / 'classes.csv', '-c', checkpoint)
    assert '--overwrite' in capsys.readouterr().err
    assert (tmp_path / 'classes.csv').read_text() == 'mine'


def test_options_of_pictures_are_refused(folder, checkpoint, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, folder / 'archive' / 'night', tmp_path / 'c.csv', '-c', checkpoint, '--self-ensemble')
    assert '--self-ensemble is for networks that make pictures' in capsys.readouterr().err


def test_a_folder_for_the_table_is_made(folder, checkpoint, monkeypatch, tmp_path):
    picture = Image.open(folder / 'archive' / 'night' / 'disc' / '00.png')
    (tmp_path / 'pictures').mkdir()
    picture.save(tmp_path / 'pictures' / 'a.gif')
    run(monkeypatch, tmp_path / 'pictures', tmp_path / 'new' / 'c.json', '-c', checkpoint)
    assert list(json.loads((tmp_path / 'new' / 'c.json').read_text())) == [str(tmp_path / 'pictures' / 'a.gif')]


def test_preprocessing_is_that_of_the_training_where_nothing_is_tested(folder, checkpoint, tmp_path, logged):
    models = tmp_path / 'run' / 'models'
    models.mkdir(parents=True)
    shutil.copy(checkpoint, models)
    options = yaml.safe_load((checkpoint.parents[1] / 'options.yml').read_text())
    train = {**options['datasets']['train'], 'image_size': 20, 'mean': [0.5] * 3, 'std': [0.5] * 3}
    options['datasets'] = {'train': {**train, 'transforms': ['RandomHorizontalFlip']}, 'val': None}
    (tmp_path / 'run' / 'options.yml').write_text(yaml.safe_dump(options))
    white = tmp_path / 'white.png'
    Image.new('RGB', (40, 30), 'white').save(white)
    image = Classifier(models / checkpoint.name).read(white)
    assert image.shape == (3, 20, 20) and (image == 1).all()
    options['datasets']['train']['type'] = 'SomebodysOwn'
    (tmp_path / 'run' / 'options.yml').write_text(yaml.safe_dump(options))
    assert Classifier(models / checkpoint.name).read(white).shape == (3, 224, 224)
    assert any('do not tell what was done to pictures' in text for text in logged.warnings())


def test_pictures_of_a_classifier_are_refused(folder, checkpoint, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, folder / 'archive' / 'night', tmp_path / 'out', '-c', checkpoint)
    assert 'is a classifier' in capsys.readouterr().err
    with pytest.raises(ValueError, match='is a classifier, which makes no pictures'):
        Restorer(checkpoint)


def test_classes_of_a_restorer_are_refused(tmp_path):
    net = build_network({'type': 'MSRResNet', 'num_feat': 8, 'num_block': 1, 'upscale': 2})
    save_checkpoint({'params': net.state_dict()}, tmp_path / 'net.pth')
    with pytest.raises(ValueError, match='the network is no classifier'):
        Classifier(tmp_path / 'net.pth')


def test_weights_alone(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / 'net.pth')
    classifier = Classifier(tmp_path / 'net.pth')
    assert classifier.classes == ['0', '1', '2']
    Image.fromarray(np.zeros((50, 70), np.uint8)).save(tmp_path / 'grey.png')
    image = classifier.read(tmp_path / 'grey.png')
    assert image.shape == (3, 224, 224)
    torch.testing.assert_close(classifier(image[None]).sum(), torch.tensor(1.0))
