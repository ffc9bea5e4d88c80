"""`scripts/inference.py`: a checkpoint on pictures of all kinds."""

import os
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from basicsr.archs import build_network
from basicsr.inference import Restorer, read_picture, write_picture
from basicsr.models import build_model
from basicsr.models.tiling import Tiling
from basicsr.runs.checkpoint import save_checkpoint
from basicsr.utils.img_util import img2tensor, tensor2img
from basicsr.utils.matlab_functions import imresize

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'scripts' / 'inference.py'
SMALL = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2}


def picture(height, width, channels=3, dtype=np.uint8, seed=0):
    """A smooth picture with some noise: (height, width[, channels])."""
    rng = np.random.default_rng(seed)
    whole = np.iinfo(dtype).max
    shape = (height, width) if channels == 1 else (height, width, channels)
    smooth = cv2.GaussianBlur(rng.random(shape), (0, 0), 3, borderType=cv2.BORDER_REFLECT)
    return (whole * ((smooth - smooth.min()) / np.ptp(smooth))).astype(dtype)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_checkpoint({'params': build_network(SMALL).state_dict()}, tmp_path / 'net.pth')
    grey = {**SMALL, 'num_in_ch': 1, 'num_out_ch': 1}
    save_checkpoint({'params': build_network(grey).state_dict()}, tmp_path / 'grey.pth')
    for name in ('a.png', 'b.jpg', 'deep/er/c.png'):
        write(tmp_path / 'in' / name, picture(12, 15, seed=len(name)))
    (tmp_path / 'in' / 'notes.txt').write_text('no picture')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, img):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), img)


def run(*arguments, network='net.pth'):
    """The script in this process; returns its exit code."""
    before = sys.argv
    sys.argv = [str(SCRIPT), '-c', network, '--device', 'cpu', *map(str, arguments)]
    try:
        runpy.run_path(str(SCRIPT), run_name='inference')['main']()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def written(folder='out'):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_command(folder):
    """From another folder, in a process of its own; a broken picture is named, and the others are made."""
    (folder / 'in' / 'broken.png').write_bytes(b'\x89PNG but not much of it')
    done = subprocess.run(
        [sys.executable, str(SCRIPT), 'in', 'out', '-c', 'net.pth', '--device', 'cpu'],
        **{'cwd': folder, 'env': {**os.environ, 'PYTHONPATH': str(ROOT)}, 'text': True, 'capture_output': True},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert '3 pictures x2 written to out' in done.stdout
    assert 'error: 1 of 4 pictures could not be restored:\n  in/broken.png: ' in done.stderr
    assert 'Traceback' not in done.stderr
    assert written() == ['a.png', 'b.png', 'deep/er/c.png'], 'nothing half-written is left, and subfolders stay'
    assert read('out/deep/er/c.png').shape == (24, 30, 3)


def test_a_picture_is_what_testing_makes_of_it(folder):
    write(folder / 'big.png', picture(50, 70))
    assert run('big.png', 'sub/big_x2.png', '--tile', 30, '--self-ensemble') == 0
    val = {'tile_size': 30, 'selfensemble_testing': True}
    opt = {
        **{'name': 'trial', 'model_type': 'MambaIRModel', 'scale': 2, 'num_gpu': 0, 'is_train': False, 'dist': False},
        **{'rank': 0, 'path': {'pretrain_network_g': 'net.pth'}, 'network_g': SMALL, 'val': val},
    }
    model = build_model(opt)
    model.feed_data({'lq': img2tensor(read('big.png').astype(np.float32) / 255)[None]})
    model.test()
    np.testing.assert_array_equal(read('sub/big_x2.png'), tensor2img(model.output))


def test_sixteen_bits_stay_sixteen(folder):
    write(folder / 'deep.png', picture(12, 15, dtype=np.uint16))
    assert run('deep.png', 'out') == 0
    result = read('out/deep.png')
    assert result.dtype == np.uint16 and result.shape == (24, 30, 3)
    lq = img2tensor(read('deep.png').astype(np.float32) / 65535)[None]
    with torch.no_grad():
        expected = Restorer('net.pth').net(lq).clamp(0, 1)[0].numpy().transpose(1, 2, 0)[..., ::-1] * 65535
    assert np.abs(result - expected).max() <= 0.51
    assert (result % 257 != 0).any(), 'more than 8 bits'
    assert run('deep.png', 'out', '--ext', 'jpg') == 0
    assert read('out/deep.jpg').dtype == np.uint8
    assert np.abs(read('out/deep.jpg') - result / 257).mean() < 4


@pytest.mark.parametrize('network', ['net.pth', 'grey.pth'])
def test_alpha_is_enlarged_by_itself(folder, network):
    img = picture(12, 15, 4)
    write(folder / 'clear.png', img)
    write(folder / 'solid.png', img[..., :3])
    assert run('clear.png', 'solid.png', 'out', network=network) == 0
    clear, solid = read('out/clear.png'), read('out/solid.png')
    assert clear.shape == (24, 30, 4)
    np.testing.assert_array_equal(clear[..., :3], solid)
    alpha = imresize(img[..., 3].astype(np.float32) / 255, 2)
    np.testing.assert_array_equal(clear[..., 3], (alpha.clip(0, 1) * 255).round())
    assert run('clear.png', 'solid.png', 'out', '--ext', 'jpg', network=network) == 2, 'JPEG has no alpha'
    assert written() == ['clear.png', 'solid.jpg', 'solid.png']


def test_grey_stays_grey_and_colour_colour(folder):
    write(folder / 'grey.png', picture(12, 15, 1))
    for network in ('net.pth', 'grey.pth'):
        assert run('grey.png', 'in/a.png', 'out', '--overwrite', network=network) == 0
        assert read('out/grey.png').shape == (24, 30)
        assert read('out/a.png').shape == (24, 30, 3)
    blue = Restorer('grey.pth')(read('in/a.png')[..., 0])
    np.testing.assert_array_equal(read('out/a.png')[..., 0], blue)
    three = Restorer('net.pth')(cv2.cvtColor(read('grey.png'), cv2.COLOR_GRAY2BGR))
    one = Restorer('net.pth')(read('grey.png'))
    assert np.abs(one - cv2.cvtColor(three, cv2.COLOR_BGR2GRAY).astype(float)).max() <= 1


def test_jpeg_is_turned_as_its_exif_says(folder):
    """Orientation 6: turned by 90 degrees clockwise, as OpenCV shows it."""
    content = (folder / 'in' / 'b.jpg').read_bytes()
    tiff = b'MM\0*' + struct.pack('>IHHHIHHI', 8, 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b'\xff\xe1' + struct.pack('>H', len(tiff) + 8) + b'Exif\0\0' + tiff
    (folder / 'turned.jpg').write_bytes(content[:2] + segment + content[2:])
    np.testing.assert_array_equal(read_picture('turned.jpg'), np.rot90(read_picture('in/b.jpg'), -1))
    np.testing.assert_array_equal(read_picture('turned.jpg'), cv2.imread('turned.jpg'))
    assert run('turned.jpg', 'out') == 0
    assert read('out/turned.png').shape == (30, 24, 3)


def test_wildcards_keep_folders_from_the_first_star_on(folder):
    assert run('in/**/*.png', 'out', '--suffix', '_x2') == 0
    assert written() == ['a_x2.png', 'deep/er/c_x2.png']
    assert run('in/d*/er/*', 'out', '--ext', 'same') == 0
    assert written()[-1] == 'deep/er/c_x2.png' and 'deep/er/c.png' in written()


def test_several_inputs(folder):
    write(folder / 'other' / 'a.png', picture(8, 8))
    assert run('in', 'other', 'in/b.jpg', 'out', '--ext', 'same') == 0
    assert written() == ['b.jpg', 'in/a.png', 'in/b.jpg', 'in/deep/er/c.png', 'other/a.png']


def test_what_is_there_stays_unless_it_is_to_be_overwritten(folder, capsys):
    write(folder / 'out' / 'a.png', picture(5, 5))
    assert run('in', 'out') == 0
    assert '1 of 3 are in out already and stay; --overwrite makes them anew' in capsys.readouterr().out
    assert read('out/a.png').shape == (5, 5, 3) and len(written()) == 3
    assert run('in', 'out', '--overwrite') == 0
    assert read('out/a.png').shape == (24, 30, 3)


def test_output_within_input_is_not_taken_for_input(folder):
    for _ in range(2):
        assert run('in', 'in/restored', '--overwrite') == 0
    assert written('in/restored') == ['a.png', 'b.png', 'deep/er/c.png']


@pytest.mark.parametrize('source', ['in/deep/er', 'in/deep/er/*.png'])
@pytest.mark.parametrize('output', ['in/deep', 'in', '.'])
def test_output_may_be_a_folder_around_input(folder, source, output):
    assert run(source, output) == 0
    assert read(f'{output}/c.png').shape == (24, 30, 3)


def test_pictures_may_stand_beside_those_of_a_wildcard(folder):
    assert run('in/*.png', 'in', '--suffix', '_x2') == 0
    assert read('in/a_x2.png').shape == (24, 30, 3)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['in', 'in'], 'INPUT and OUTPUT are the same folder, in'),
        (['in/', './in'], 'the same folder'),
        (['in/a.png', 'in/a.png'], 'OUTPUT would replace the input in/a.png'),
        (['in/a.png', 'in'], 'OUTPUT would replace the input in/a.png'),
        (['in', 'x.png'], 'x.png is the name of one picture, and 3 are to be written: name a folder'),
        (['in', 'net.pth'], 'net.pth is a file, and no picture'),
        (['nowhere', 'out'], "there is no picture, no folder and nothing that matches 'nowhere'"),
        (['in/*.txt', 'out'], "no picture is in 'in/*.txt'"),
        (['in/a.png', 'same/a.png', 'out'], 'same/a.png'),
        (['in', 'out', '--tile-overlap', '1'], 'val.tile_overlap'),
        (['in', 'out', '--device', 'abacus'], '--device abacus'),
        (['in', 'out', '--param-key', 'params', '-c', 'in/a.png'], 'it is a picture (PNG)'),
    ],
)
def test_mistakes_make_nothing(folder, arguments, message, capsys):
    before = written('.')
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert written('.') == before


def test_two_pictures_of_one_name_are_refused(folder, capsys):
    write(folder / 'in' / 'a.bmp', picture(8, 8))
    assert run('in', 'out') == 2
    assert 'in/a.bmp and in/a.png would both become out/a.png' in capsys.readouterr().err
    assert run('in', 'out', '--ext', 'same') == 0


def test_the_moving_average_and_saved_options_are_preferred(folder):
    """As validation does; `img_range`, which weights do not show, comes from the experiment's options."""
    torch.manual_seed(1)
    options = {'type': 'MambaIR', 'embed_dim': 30, 'depths': [1], 'd_state': 2, 'img_range': 255.0}
    net, average = build_network(options), build_network(options)
    path = folder / 'experiment' / 'models' / 'net_g_5.pth'
    path.parent.mkdir(parents=True)
    save_checkpoint({'params': net.state_dict(), 'params_ema': average.state_dict()}, path)
    (path.parents[1] / 'options.yml').write_text(yaml.safe_dump({'network_g': options}))
    for key, expected in ((None, average), ('params', net)):
        restorer = Restorer(path, param_key=key)
        assert (restorer.scale, restorer.net.img_range) == (1, 255.0)
        assert torch.equal(restorer.net.conv_first.weight, expected.conv_first.weight)


def test_networks_that_are_not_for_pictures_are_refused(folder):
    save_checkpoint({'params': build_network({**SMALL, 'num_in_ch': 1}).state_dict()}, 'odd.pth')
    with pytest.raises(ValueError, match=r'odd\.pth: the network makes 3 channels of 1'):
        Restorer('odd.pth')


def test_memory_that_runs_out_is_one_pictures_trouble(folder, monkeypatch, capsys):
    """Where even the smallest tile does not fit, the others go on."""

    def run_out(self, network, lq, scale):
        if lq.shape[-1] > 20:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB.')
        return network(lq)

    monkeypatch.setattr(Tiling, 'run', run_out)
    write(folder / 'in' / 'aa.png', picture(30, 30))
    assert run('in', 'out') == 2
    assert 'in/aa.png: CUDA out of memory' in capsys.readouterr().err
    assert len(written()) == 3


def test_a_failed_write_leaves_what_was_there(folder, monkeypatch):
    def fail(img, path):
        Path(path).write_bytes(b'half')
        raise OSError('No space left on device')

    before = (folder / 'in' / 'a.png').read_bytes()
    monkeypatch.setattr('basicsr.inference.imwrite', fail)
    with pytest.raises(OSError, match='No space'):
        write_picture(picture(3, 3), folder / 'in' / 'a.png')
    assert (folder / 'in' / 'a.png').read_bytes() == before
    assert not [name for name in written('in') if 'partial' in name]


# Values that are none


def test_pictures_without_values_are_named_and_the_others_are_made(folder, capsys):
    floats = picture(12, 15, dtype=np.uint16).astype(np.float32) / 65535
    nan, alpha, infinite = floats.copy(), np.dstack([floats, floats[..., :1]]), floats[..., 0].copy()
    nan[2, 3], alpha[0, :5, 3], infinite[0, 0] = np.nan, np.nan, np.inf
    bad = {'nan': nan, 'alpha': alpha, 'grey': infinite, 'range': floats * 255, 'long': (floats * 255).astype(np.int32)}
    for name, values in {**bad, 'good': floats}.items():
        write(folder / 'in' / f'{name}.tif', values)
    assert run('in', 'out', '--ext', 'same') == 2
    printed = capsys.readouterr()
    assert 'error: 5 of 9 pictures could not be restored:' in printed.err
    for name, said in (
        *(('nan', '3 of 540 values are NaN or infinite'), ('alpha', '5 of 720 values'), ('grey', '1 of 180 values')),
        *(('range', 'its floats go from 0 to 255, and must be in [0, 1]'), ('long', 'its values are of type int32')),
    ):
        assert f'  in/{name}.tif: {said}' in printed.err
    assert written() == ['a.png', 'b.jpg', 'deep/er/c.png', 'good.tif']
    assert 'Traceback' not in printed.err


@pytest.mark.parametrize('extension', ['png', 'webp', 'tif'])
def test_frames_are_refused_by_the_picture_that_has_them(folder, extension, capsys):
    frames = [Image.fromarray(picture(12, 15, seed=seed)) for seed in range(3)]
    frames[0].save(folder / 'in' / f'moving.{extension}', save_all=True, append_images=frames[1:])
    assert run('in', 'out') == 2
    said = f'in/moving.{extension}: it holds 3 pictures (frames or pages), of which one would be read'
    assert said in capsys.readouterr().err
    assert written() == ['a.png', 'b.png', 'deep/er/c.png']


def test_a_network_that_gives_no_picture_writes_none(folder, monkeypatch, capsys):
    def broken(self, network, lq, scale):
        output = network(lq)
        if lq.shape[-1] > 20:
            output[..., 0, :2] = torch.tensor([torch.nan, torch.inf])
        return output

    monkeypatch.setattr(Tiling, 'run', broken)
    write(folder / 'in' / 'aa.png', picture(30, 30))
    assert run('in', 'out') == 2
    assert 'in/aa.png: of what the network makes of it, 6 of 10,800 values are NaN or infi' in capsys.readouterr().err
    assert written() == ['a.png', 'b.png', 'deep/er/c.png']


def test_broken_weights_are_refused_before_a_picture_is_read(folder, capsys):
    weights = build_network(SMALL).state_dict()
    weights['conv_first.bias'][1] = torch.nan
    save_checkpoint({'params': weights}, 'broken.pth')
    assert run('in', 'out', network='broken.pth') == 2
    said = capsys.readouterr().err
    assert 'broken.pth holds weights that are not finite' in said
    assert 'conv_first.bias: 1 of 4 values are NaN or infinite' in said
    assert not (folder / 'out').exists()


# Links


def test_links_that_lead_nowhere_are_named_and_the_others_are_made(folder, capsys):
    for name, target in (('gone.png', 'nowhere.png'), ('loop.png', 'loop.png'), ('deep/x.png', '../loop.png')):
        (folder / 'in' / name).symlink_to(target)
    (folder / 'in' / 'loop').symlink_to('loop')
    (folder / 'in' / 'deep' / 'up').symlink_to('..')
    os.mkfifo(folder / 'in' / 'pipe.png')
    (folder / 'in' / 'moving.gif').write_bytes(b'GIF89a')
    for arguments in (['in'], ['in/**']):
        assert run(*arguments, 'out', '--overwrite') == 2
        said = capsys.readouterr().err
        assert 'error: 4 of 7 pictures could not be restored:' in said
        assert 'in/gone.png: it is a link to nowhere.png, which is not there' in said
        assert 'in/loop.png: it is a link to loop.png, which leads back to itself' in said
        assert 'in/deep/x.png: it is a link to ../loop.png, which leads back to itself' in said
        assert 'in/pipe.png: it is no file, but a pipe' in said
        assert 'Traceback' not in said
        assert written() == ['a.png', 'b.png', 'deep/er/c.png']
    assert run('in/loop.png', 'other') == 2
    assert 'in/loop.png: it is a link to loop.png, which leads back to itself' in capsys.readouterr().err
    assert run('in/*.png', 'other') == 2
    assert 'error: 3 of 4 pictures could not be restored' in capsys.readouterr().err


def test_pictures_of_other_formats_are_said(folder, logged):
    (folder / 'in' / 'deep' / 'moving.gif').write_bytes(b'GIF89a')
    assert run('in', 'out') == 0
    assert any("1 files of 'in' are left out" in text and 'deep/moving.gif' in text for text in logged.warnings())


@pytest.mark.parametrize(
    ('source', 'places'),
    [
        ('in/**', ['a.png', 'b.jpg', 'deep/er/c.png']),
        ('in/**/*.png', ['a.png', 'deep/er/c.png']),
        ('in/**/er/*', ['deep/er/c.png']),
        ('**/er/**/c.*', ['in/deep/er/c.png']),
        ('in/d*/**/c.png', ['deep/er/c.png']),
        ('in/*', ['a.png', 'b.jpg']),
        ('in/?.[jp][pn]g', ['a.png', 'b.jpg']),
    ],
)
def test_wildcards_match_once_each_around_links_that_lead_back(folder, source, places):
    for number in range(3):  # each of which `glob` would follow, and through it the others again
        (folder / 'in' / 'deep' / f'up{number}').symlink_to('..')
    find_pictures = runpy.run_path(str(SCRIPT), run_name='inference')['find_pictures']
    assert [str(place) for _, place in find_pictures(source, Path('out'))] == places
