"""What the values of a picture mean: read right, or refused by the picture's name."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from basicsr.data import build_dataset
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.lmdb_util import make_lmdb

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def dataset(root, phase='val', **changes):
    """Pairs at scale 1 whose lq, or gt, is the picture that a test is about."""
    section = {'type': 'PairedImageDataset', 'name': 'pairs', 'phase': phase, 'scale': 1}
    section |= {f'dataroot_{key}': str(root / key) for key in ('gt', 'lq')}
    return build_dataset({**section, **({'gt_size': 8} if phase == 'train' else {}), **changes})


def good(root, key):
    (root / key).mkdir()
    assert cv2.imwrite(str(root / key / '0.png'), RGB)


def write_tiff(path, values):
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), values)


UNIT = RGB.astype(np.float32) / 255


@pytest.mark.parametrize('phase', ['train', 'val', 'test'])
@pytest.mark.parametrize('key', ['lq', 'gt'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_pictures_that_are_not_finite_are_named(tmp_path, phase, key, value):
    values = UNIT.copy()
    values[3, 4, :2] = value
    good(tmp_path, 'gt' if key == 'lq' else 'lq')
    write_tiff(tmp_path / key / '0.tif', values)
    with pytest.raises(ValueError, match=rf'dataroot_{key}: .*{key}/0\.tif.*: 2 of 576 values are NaN or infinite'):
        dataset(tmp_path, phase)[0]


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (RGB.astype(np.float32), 'its floats go from 0 to 255, and must be in [0, 1]'),
        (RGB.astype(np.float64), 'its floats go from 0 to 255, and must be in [0, 1]'),
        (UNIT * 2 - 1, 'its floats go from -1 to 1, and must be in [0, 1]'),
        (GREY.astype(np.float32), 'its floats go from 0 to 254, and must be in [0, 1]'),
        (RGB.astype(np.uint32) * 257, 'its values are of type uint32'),
        (GREY.astype(np.int32), 'its values are of type int32'),
        (RGB.astype(np.int16), 'its values are of type int16'),
        (RGB.astype(np.int8), 'its values are of type int8'),
    ],
)
def test_values_in_another_range_are_refused(tmp_path, values, message):
    good(tmp_path, 'lq')
    write_tiff(tmp_path / 'gt' / '0.tif', values)
    with pytest.raises(ValueError) as caught:
        dataset(tmp_path)[0]
    assert message in str(caught.value) and 'gt/0.tif' in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'picture', 'expected'),
    [
        ('floats.tif', UNIT, UNIT),
        ('doubles.tif', UNIT.astype(np.float64), UNIT),
        ('overshoot.tif', UNIT * 1.2 - 0.1, UNIT * 1.2 - 0.1),
        ('grey_floats.tif', UNIT[..., 0], np.dstack([UNIT[..., 0]] * 3)),
        ('deep.png', RGB.astype(np.uint16) * 257, UNIT),
        ('deep.tif', RGB.astype(np.uint16) * 257, UNIT),
        ('grey.png', GREY, np.dstack([UNIT[..., 0]] * 3)),
        ('alpha.png', np.dstack([RGB, GREY]), UNIT),
    ],
)
def test_pictures_of_all_depths_are_the_same_picture(tmp_path, name, picture, expected):
    good(tmp_path, 'lq')
    (tmp_path / 'lq' / '0.png').rename(tmp_path / 'lq' / f'{name[:-4]}.png')
    write_tiff(tmp_path / 'gt' / name, picture)
    gt = dataset(tmp_path)[0]['gt'].numpy()
    np.testing.assert_allclose(gt, expected.transpose(2, 0, 1)[::-1], atol=1e-6)


@pytest.mark.parametrize('name', ['0.png', '0.tif'])
@pytest.mark.parametrize('mode', ['1', 'P', 'LA'])
def test_bits_palettes_and_grey_with_alpha(tmp_path, name, mode):
    picture = Image.fromarray(RGB[..., ::-1].copy())
    picture = picture.quantize(16) if mode == 'P' else picture.convert(mode)
    good(tmp_path, 'lq')
    (tmp_path / 'gt').mkdir()
    picture.save(tmp_path / 'gt' / name)
    expected = np.asarray(picture.convert('RGB'), np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(dataset(tmp_path)[0]['gt'].numpy(), expected, atol=1e-6)


def test_grey_tasks_and_single_pictures_look_as_well(tmp_path):
    values = UNIT[..., 0].copy()
    values[0, 0] = np.nan
    write_tiff(tmp_path / 'lq' / '0.tif', values)
    message = r'0\.tif.*: 1 of 192 values are NaN'
    for task in ('SR', 'CAR'):
        section = {'type': 'SingleImageDataset', 'phase': 'test', 'dataroot_lq': str(tmp_path / 'lq'), 'task': task}
        with pytest.raises(ValueError, match=message):
            build_dataset(section)[0]
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, dataroot_gt=str(tmp_path / 'lq'), task='denoising_gray', noise=5)[0]


def test_lmdbs_take_no_floats_and_pictures_in_them_are_looked_at(tmp_path):
    lmdb = pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
    write_tiff(tmp_path / 'floats' / '0.tif', UNIT)
    with pytest.raises(ValueError, match=r'0\.tif.* holds float32, which PNG cannot'):
        make_lmdb({'0': tmp_path / 'floats' / '0.tif'}, tmp_path / 'new.lmdb')
    for key in ('gt', 'lq'):
        good(tmp_path, key)
        make_lmdb({'0': tmp_path / key / '0.png'}, tmp_path / f'{key}.lmdb')
    broken = np.full_like(UNIT, np.nan)
    with lmdb.open(str(tmp_path / 'gt.lmdb')) as made_elsewhere, made_elsewhere.begin(write=True) as transaction:
        transaction.put(b'0', cv2.imencode('.tif', broken)[1].tobytes())
    roots = {f'dataroot_{key}': str(tmp_path / f'{key}.lmdb') for key in ('gt', 'lq')}
    with pytest.raises(ValueError, match="dataroot_gt: cannot read the picture '0': 576 of 576 values are NaN"):
        dataset(tmp_path, **roots, io_backend={'type': 'lmdb'})[0]


# Frames


def animated(extension, count):
    frames = [Image.fromarray(np.roll(RGB, shift, 0)) for shift in range(count)]
    return frames[0], {'save_all': True, 'append_images': frames[1:]} if count > 1 else {}


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('extension', ['png', 'webp', 'tif', 'gif'])
def test_frames_are_not_dropped(tmp_path, extension, count):
    path = tmp_path / 'gt' / f'0.{extension}'
    good(tmp_path, 'lq')
    path.parent.mkdir()
    frame, options = animated(extension, count)
    frame.save(path, **options)
    names = tmp_path / 'names.txt'
    names.write_text(f'0.{extension}\n')  # a folder's GIFs are not read
    pairs = dataset(tmp_path, meta_info_file=str(names))
    if count == 1:
        assert pairs[0]['gt'].shape == (3, 12, 16)
        return
    with pytest.raises(ValueError, match=rf'0\.{extension}.*: it holds 3 pictures \(frames or pages\)'):
        pairs[0]
    if extension != 'gif':
        pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
        with pytest.raises(ValueError, match=rf'0\.{extension}.*: it holds 3 pictures'):
            make_lmdb({'0': path}, tmp_path / 'new.lmdb')
        assert not (tmp_path / 'new.lmdb').exists()


def tiff(order, big, subfiles):
    """Pages of one grey pixel, each with tag 254 as given."""
    start = {'<': b'II', '>': b'MM'}[order]
    offset, count = ('Q', 'Q') if big else ('I', 'H')
    content = start + struct.pack(f'{order}HHHQ', 43, 8, 0, 16) if big else start + struct.pack(f'{order}HI', 42, 8)
    for index, subfile in enumerate(subfiles):
        short = struct.pack(f'{order}H', 8).ljust(8 if big else 4, b'\0')
        entries = struct.pack(f'{order}HH{offset}', 254, 4, 1)
        entries += struct.pack(f'{order}I', subfile).ljust(8 if big else 4, b'\0')
        entries += struct.pack(f'{order}HH{offset}', 258, 3, 1) + short
        end = len(content) + struct.calcsize(f'={count}') + len(entries) + struct.calcsize(f'={offset}')
        content += struct.pack(f'{order}{count}', 2) + entries
        content += struct.pack(f'{order}{offset}', end if index + 1 < len(subfiles) else 0)
    return content


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('big', [False, True])
def test_reduced_copies_and_masks_of_a_page_are_no_pages(order, big):
    with pytest.raises(ValueError, match=r'bytes that are no complete picture|refuses to decode'):
        imfrombytes(tiff(order, big, [0, 1, 4]))  # one page, of which there are no pixels
    with pytest.raises(ValueError, match='it holds 2 pictures'):
        imfrombytes(tiff(order, big, [0, 1, 0]))


def test_an_animation_of_one_frame_and_a_preview_behind_a_jpeg_are_one_picture(tmp_path):
    content = cv2.imencode('.png', RGB)[1].tobytes()
    height, width = RGB.shape[:2]
    chunks = [
        b'acTL' + struct.pack('>II', 1, 0),
        b'fcTL' + struct.pack('>5I2H2B', 0, width, height, 0, 0, 1, 10, 0, 0),  # the picture itself is the frame
    ]
    sizes = [struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) for chunk in chunks]
    one = content[:33] + b''.join(sizes) + content[33:]
    np.testing.assert_array_equal(imfrombytes(one), RGB)
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::2, ::2])
    first.save(tmp_path / 'a.jpg', 'MPO', save_all=True, append_images=[second])
    assert imfrombytes((tmp_path / 'a.jpg').read_bytes()).shape == RGB.shape
