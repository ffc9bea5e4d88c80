"""What is looked at before native code gets it: databases, names of files, and what lies behind them."""

import ast
import os
import random
import signal
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import ldt
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.data.data_util import read_image
from basicsr.data.names import read_names
from basicsr.inference import Restorer, read_picture, write_picture
from basicsr.options.file import yaml_load
from basicsr.results.plots import crop_sheet
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.test import test_pipeline as run_test
from basicsr.utils.file_client import FileClient
from basicsr.utils.img_util import imfrombytes, imwrite
from basicsr.utils.lmdb_util import lmdb_keys, make_lmdb, read_lmdb
from basicsr.utils.misc import file_fault
from tests import small_run

ROOT = Path(__file__).parents[3]
LATIN1 = os.fsdecode(b'caf\xe9')
EXTENSIONS = ('.png', '.jpg', '.tif', '.bmp', '.webp', '.ppm')


@pytest.fixture(autouse=True)
def not_for_ever():
    """A test that waits for a pipe fails."""

    def stop(number, frame):
        raise TimeoutError('it waits')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def picture(height=12, width=14, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Databases


def database(folder: Path, count=150, name='x.lmdb') -> Path:
    pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
    files = {}
    for index in range(count):  # large ones, on pages of their own, and small ones, beside their keys
        file = folder / 'pictures' / f'{"a long name " * 4}{index}.png'
        imwrite(picture(30 if index % 3 == 0 else 6, 20, index), file)
        files[file.stem] = file
    make_lmdb(files, folder / name)
    return folder / name


def all_values(folder: Path) -> dict[str, bytes]:
    return {key: read_lmdb(folder, key) for key in lmdb_keys(folder, 'dataroot_gt')}


def put(folder: Path, content: bytes) -> None:
    """Another database in its place; a new file, since LMDB has mapped the one before."""
    (folder / 'new').write_bytes(content)
    (folder / 'new').replace(folder / 'data.mdb')


@pytest.fixture
def copies(tmp_path):
    """(content of a database, its list, a function that makes a folder with another content)."""
    whole = database(tmp_path)
    content, numbers = (whole / 'data.mdb').read_bytes(), iter(range(10**6))

    def copy(changed: bytes) -> Path:
        folder = tmp_path / f'{next(numbers)}.lmdb'
        folder.mkdir()
        (folder / 'meta_info.txt').write_bytes((whole / 'meta_info.txt').read_bytes())
        (folder / 'data.mdb').write_bytes(changed)
        return folder

    return content, all_values(whole), copy


def test_databases_are_read_whatever_the_size_of_their_values(copies):
    content, values, _ = copies
    assert len(values) == 150 and len(content) > 100_000
    for index, (_, value) in enumerate(sorted(values.items(), key=lambda entry: int(entry[0].split()[-1]))):
        np.testing.assert_array_equal(imfrombytes(value), picture(30 if index % 3 == 0 else 6, 20, index))


def test_truncated_databases_are_refused_and_named(copies):
    content, _, copy = copies
    for length in (
        0,
        1,
        100,
        4095,
        4096,
        5000,
        8191,
        8192,
        20_000,
        len(content) // 2,
        len(content) - 4096,
        len(content) - 1,
    ):
        folder = copy(content[:length])
        with pytest.raises(ValueError, match=rf'{folder.name}/data\.mdb. cannot be opened as an LMDB: it is truncated'):
            lmdb_keys(folder, 'dataroot_gt')
        with pytest.raises(ValueError, match='cannot be opened as an LMDB'):
            read_lmdb(folder, 'a')


def test_bits_of_pages_do_not_end_the_process(copies):
    """A page number beyond the file would be SIGBUS."""
    content, values, copy = copies
    rng, refused, whole = random.Random(0), 0, 0
    pages = [at for at in range(0, len(content), 4096) if struct.unpack_from('=Q', content, at)[0] * 4096 == at]
    inner = [at for at in pages if struct.unpack_from('=H', content, at + 10)[0] & 11]  # of keys, and of the whole
    for _ in range(250):
        place = rng.choice(inner) + rng.choice((rng.randrange(24), rng.randrange(200), rng.randrange(4096)))
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        folder = copy(bytes(changed))
        try:
            found = {key: read_lmdb(folder, key) for key in list(values)[::10]}
            whole += all(values[key] == value for key, value in found.items())
        except (ValueError, FileNotFoundError) as error:
            assert folder.name in str(error)
            refused += 1
    assert refused > 20 and whole > 100


@pytest.mark.parametrize(
    'place, form, value, said',
    [
        (16, '=I', 1, 'it is no LMDB'),
        (16, '>I', 0xBEEFC0DE, 'it is no LMDB, of a machine with another byte order'),
        (20, '=I', 2, 'it is an LMDB of format 2, not 1'),
        (40, '=I', 4097, 'it is damaged: pages of 4097 bytes'),
        (4096 + 10, '=H', 0, 'it is damaged: its description at byte 4096 is none'),
        (4096 + 136, '=Q', 2**50, 'it is truncated'),
        (4096 + 128, '=Q', 2**40, 'it is damaged: its tree leads to page 1099511627776'),
        (4096 + 94, '=H', 40, 'it is damaged'),
    ],
)
def test_fields_of_a_database_are_checked(copies, place, form, value, said):
    content, _, copy = copies
    changed = bytearray(content)
    struct.pack_into('=Q', changed, 144, 1)
    struct.pack_into('=Q', changed, 4096 + 144, 2**40)  # the newer description
    changed[4096 + 40 : 4096 + 144] = max(content[40:144], content[4136:4240], key=lambda one: one[-8:])
    struct.pack_into(form, changed, place, value)
    folder = copy(bytes(changed))
    with pytest.raises(ValueError, match=said):
        lmdb_keys(folder, 'dataroot_gt')


def test_a_database_that_shrinks_while_it_is_read_is_refused(copies):
    content, values, copy = copies
    folder, key = copy(content), next(iter(values))
    assert read_lmdb(folder, key) == values[key]
    os.truncate(folder / 'data.mdb', 8192)
    with pytest.raises(ValueError, match='it is truncated'):
        read_lmdb(folder, key)


def test_a_database_needs_no_lock_file_and_is_no_pipe(copies):
    content, values, copy = copies
    folder = copy(content)
    os.chmod(folder, 0o555)
    assert all_values(folder) == values and not (folder / 'lock.mdb').exists()
    os.chmod(folder, 0o755)
    (folder / 'data.mdb').unlink()
    os.mkfifo(folder / 'data.mdb')
    with pytest.raises(FileNotFoundError, match=r'data\.mdb. \(it is no file, but a pipe'):
        lmdb_keys(folder, 'dataroot_gt')


def test_keys_that_are_not_utf8(tmp_path):
    pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
    imwrite(picture(), tmp_path / f'{LATIN1}.png')
    make_lmdb({LATIN1: tmp_path / f'{LATIN1}.png'}, tmp_path / 'x.lmdb')
    assert lmdb_keys(tmp_path / 'x.lmdb', 'dataroot_gt') == [LATIN1]
    np.testing.assert_array_equal(imfrombytes(read_lmdb(tmp_path / 'x.lmdb', LATIN1)), picture())


# Names


def test_opencv_gets_no_names():
    """A name that is not UTF-8 is SIGSEGV in its readers and writers."""
    for file in [*(ROOT / 'basicsr').rglob('*.py'), *(ROOT / 'scripts').rglob('*.py'), *(ROOT / 'ldt').rglob('*.py')]:
        if 'benchmark' in file.parts:  # which make the names of their pictures
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'cv2':
                assert node.attr not in ('imread', 'imwrite', 'imreadmulti', 'imwritemulti', 'VideoCapture'), file


@pytest.mark.parametrize('extension', EXTENSIONS)
@pytest.mark.parametrize('name', [LATIN1, 'ü 日本', 'a' * 240, 'quote\'"%s{}'], ids=ascii)
def test_pictures_by_any_name(tmp_path, name, extension):
    path = tmp_path / LATIN1 / f'{name}{extension}'
    imwrite(picture(), path)
    expected = imfrombytes(cv2.imencode(extension, picture())[1].tobytes())
    np.testing.assert_array_equal(read_picture(path), expected)
    read = read_image(FileClient('disk'), str(path), 'dataroot_gt')
    np.testing.assert_array_equal(read, expected.astype(np.float32) / 255)


def test_pictures_are_written_as_opencv_writes_them(tmp_path):
    for extension, params in ((one, []) for one in EXTENSIONS):
        imwrite(picture(), tmp_path / f'ours{extension}', params)
        assert cv2.imwrite(str(tmp_path / f'theirs{extension}'), picture(), params)
        assert (tmp_path / f'ours{extension}').read_bytes() == (tmp_path / f'theirs{extension}').read_bytes()


@pytest.mark.parametrize('name', ['a\0b.png', 'x' * 300 + '.png', 'half\ud800.png'], ids=ascii)
def test_names_that_no_file_can_have(tmp_path, name):
    path = str(tmp_path / name)
    with pytest.raises((OSError, ValueError)) as error:
        read_image(FileClient('disk'), path, 'dataroot_gt')
    assert ascii(name[:4])[1:-1] in ascii(str(error.value)).replace('\\\\', '\\')
    with pytest.raises(OSError, match='could not write the picture') as error:
        imwrite(picture(), path)
    assert ascii(name[:4])[1:-1] in ascii(str(error.value)).replace('\\\\', '\\')
    with pytest.raises((OSError, ValueError)):
        write_picture(picture(), path.replace('.png', '.tif'))
    assert not os.listdir(tmp_path)


def test_checkpoints_by_any_name(tmp_path):
    path = tmp_path / f'{LATIN1}.pth'
    net = build_network({'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2})
    save_checkpoint({'params': net.state_dict()}, path)
    assert torch.equal(load_checkpoint(path)['params']['conv_last.weight'], net.conv_last.weight)
    assert Restorer(path).scale == 2


def test_a_test_of_pictures_by_names_that_are_not_utf8(tmp_path):
    """Tables, results, the log and pictures are written; the scores are those of the same pictures by ASCII."""
    small_run.make_pictures(tmp_path, {'test_0': (26,)})
    file = tmp_path / 'net.pth'
    save_checkpoint({'params': build_network(small_run.options(tmp_path)['network_g']).state_dict()}, file)
    texts = {}
    for name, before, stem in (('ascii', '0', 'cafe'), ('latin', 'cafe', LATIN1)):
        for part in ('HR', 'LR'):
            folder = tmp_path / 'test_0' / part
            (folder / f'{before}.png').rename(folder / f'{stem}.png')
        opt = small_run.options(tmp_path, name=name, val__save_img=True, path__pretrain_network_g=str(file))
        opt['datasets'] = {
            'test_0': {key: opt['datasets']['test_0'][key] for key in ('type', 'dataroot_gt', 'dataroot_lq')}
        }
        del opt['train'], opt['logger'], opt['val']['val_freq'], opt['manual_seed']
        (tmp_path / f'{name}.yml').write_text(yaml.safe_dump(opt))
        run_test(
            str(tmp_path),
            small_run.command_line(tmp_path / f'{name}.yml', check=False, compare=['bicubic'], debug=True),
        )
        results = tmp_path / 'results' / name
        texts[name] = (results / 'table.md').read_text()
        assert [one for one in results.rglob('*.png') if one.name.startswith(stem)]
        assert ascii(stem)[1:-1] in (results / 'images.csv').read_text()
    assert 'psnr' in texts['ascii'].lower()
    assert texts['latin'].replace('latin', 'ascii') == texts['ascii']


def test_plots_with_names_that_are_not_utf8(tmp_path):
    cells = [(picture(20, 20), 'psnr 3'), (picture(20, 20), '')]
    for name in (LATIN1, 'a$b$', r'a$\frac$'):  # which is no formula either
        crop_sheet([(f'domain\n{name}', cells)], [name, 'truth'], str(tmp_path / f'{LATIN1}.png'))
        assert read_picture(tmp_path / f'{LATIN1}.png').shape[0] > 20


# Pictures


@pytest.mark.parametrize('extension', EXTENSIONS)
def test_truncated_pictures_are_named(tmp_path, extension):
    whole = cv2.imencode(extension, cv2.resize(picture(), (90, 80)))[1].tobytes()
    path = str(tmp_path / f'cut{extension}')
    for length in (1, 8, 20, 60, len(whole) // 3, len(whole) // 2, len(whole) - 20, len(whole) - 3):
        Path(path).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r'dataroot_gt: cannot read the picture .*cut\.'):
            read_image(FileClient('disk'), path, 'dataroot_gt')


def bomb(width, height) -> bytes:
    """A PNG of that size that holds a line."""

    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(width * 3 + 1))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


@pytest.mark.parametrize('width, height', [(100_000, 100_000), (2**31 - 1, 2), (1_500_000, 3), (0, 5)])
def test_pictures_that_claim_more_pixels_than_any_has(tmp_path, width, height):
    path = tmp_path / 'bomb.png'
    path.write_bytes(
        bomb(width if width < 10**7 else 10, height)[:8] + bomb(10, 10)[8:] if width > 10**7 else bomb(width, height)
    )
    if width > 10**7:
        content = bytearray(path.read_bytes())
        struct.pack_into('>II', content, 16, width, height)
        struct.pack_into('>I', content, 29, zlib.crc32(content[12:29]))
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r'dataroot_gt: cannot read the picture .*bomb\.png'):
        read_image(FileClient('disk'), str(path), 'dataroot_gt')


# What is no file


def test_pipes_devices_and_folders_are_refused_wherever_a_file_is_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'folder').mkdir()
    readers = {
        'a picture': lambda path: read_image(FileClient('disk'), path, 'dataroot_gt'),
        'a picture of inference': read_picture,
        'a text': lambda path: FileClient('disk').get_text(path),
        'a checkpoint': load_checkpoint,
        'options': lambda path: yaml_load(Path(path)),
        'a list of names': read_names,
        'a partition': ldt.Partition.load,
    }
    for path in (str(tmp_path / 'pipe'), '/dev/zero', str(tmp_path / 'folder')):
        for what, read in readers.items():
            with pytest.raises((ValueError, OSError)) as error:
                read(path)
            assert path in str(error.value) or what == 'a picture of inference', what


def test_why_there_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'plain').write_text('x')
    (tmp_path / 'away').symlink_to('nowhere')
    (tmp_path / 'loop').symlink_to('loop')
    (tmp_path / 'good').symlink_to('plain')
    expected = {
        **{'plain': '', 'good': '', '.': 'a folder', 'pipe': 'no file, but a pipe, a socket or a device'},
        **{'none': 'absent', 'plain/x': 'absent', 'away': 'a link to nowhere, which is not there'},
        **{'loop': 'a link to loop, which leads back to itself', 'nul\0': 'absent: no file can have this name'},
        'x' * 300: 'out of reach: File name too long',
    }
    assert {name: file_fault(tmp_path / name) for name in expected} == expected


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_files_without_permission_are_named(tmp_path):
    for name in ('x.png', 'x.pth'):
        (tmp_path / name).write_bytes(b'x')
        os.chmod(tmp_path / name, 0)
    with pytest.raises(OSError, match=r'x\.png'):
        read_image(FileClient('disk'), str(tmp_path / 'x.png'), 'dataroot_gt')
    with pytest.raises(ValueError, match=r'x\.pth cannot be read: Permission denied'):
        load_checkpoint(tmp_path / 'x.pth')


def test_a_data_set_names_a_pipe_among_its_pictures(tmp_path):
    imwrite(picture(), tmp_path / 'gt' / 'a.png')
    os.mkfifo(tmp_path / 'gt' / 'b.png')
    options = {
        'type': 'SingleImageDataset',
        'name': 'x',
        'phase': 'val',
        'dataroot_lq': str(tmp_path / 'gt'),
        'scale': 1,
    }
    with pytest.raises((ValueError, OSError), match=r'b\.png is no file, but a pipe'):
        build_dataset(options)
