import cv2
import numpy as np
import pytest
import torch

from basicsr.utils.file_client import FileClient
from basicsr.utils.img_util import crop_border, imfrombytes, img2tensor, imwrite, tensor2img


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encode(img, extension='.png'):
    return cv2.imencode(extension, img)[1].tobytes()


def test_img2tensor(picture):
    tensor = img2tensor(picture)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), picture[..., ::-1].transpose(2, 0, 1))
    plain = img2tensor([picture, picture[..., :1]], bgr2rgb=False, float32=False)
    assert [t.dtype for t in plain] == [torch.uint8] * 2
    np.testing.assert_array_equal(plain[0].numpy(), picture.transpose(2, 0, 1))
    assert plain[1].shape == (1, 5, 7)
    with pytest.raises(ValueError, match=r'not \(5, 7\)'):
        img2tensor(picture[..., 0])


def test_tensors_and_pictures_are_inverse(picture):
    tensor = img2tensor(picture) / 255
    np.testing.assert_array_equal(tensor2img(tensor), picture)
    np.testing.assert_array_equal(tensor2img(tensor[None]), picture)
    np.testing.assert_array_equal(tensor2img(tensor, rgb2bgr=False), picture[..., ::-1])
    np.testing.assert_array_equal(tensor2img(tensor[2]), picture[..., 0])
    np.testing.assert_array_equal(tensor2img(tensor[2:]), picture[..., 0])
    first, second = tensor2img([tensor, tensor[0]])
    assert first.shape == (5, 7, 3) and second.shape == (5, 7)
    np.testing.assert_array_equal(tensor2img([tensor]), picture)


def test_tensor2img_clamps_scales_and_rounds():
    values = torch.tensor([[-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]])
    np.testing.assert_array_equal(tensor2img(values, min_max=(-1, 1)), [[0, 0, 128, 191, 255, 255]])
    floats = tensor2img(values, out_type=np.float32, min_max=(-1, 1))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, [[0, 0, 0.5, 0.75, 1, 1]])
    assert values[0, 0] == -2


def test_tensor2img_arranges_batches_in_a_grid():
    batch = torch.zeros(4, 3, 5, 7)
    batch[3] = 1
    grid = tensor2img(batch)
    assert grid.shape == (2 * 5 + 6, 2 * 7 + 6, 3)
    assert grid[-3, -3].tolist() == [255] * 3 and grid[3, 3].tolist() == [0] * 3
    with pytest.raises(ValueError, match=r'\(1, 1, 1, 1, 1\)'):
        tensor2img(torch.zeros(1, 1, 1, 1, 1))


def test_imfrombytes(picture):
    content = encode(picture)
    np.testing.assert_array_equal(imfrombytes(content), picture)
    floats = imfrombytes(content, float32=True)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, picture / 255.0, atol=1e-7)
    assert imfrombytes(content, 'grayscale').shape == (5, 7)
    with_alpha = np.dstack([picture, picture[..., :1]])
    np.testing.assert_array_equal(imfrombytes(encode(with_alpha), 'unchanged'), with_alpha)


@pytest.mark.parametrize('flag', ['color', 'unchanged'])
def test_sixteen_bits_keep_their_precision(flag):
    deep = np.array([[[0, 1, 257], [65535, 40000, 12345]]], np.uint16)
    np.testing.assert_allclose(imfrombytes(encode(deep), flag, float32=True), deep / 65535.0, atol=1e-7)


def test_imfrombytes_names_what_is_wrong(picture):
    for broken in (b'', b'not a picture', encode(picture)[:60]):
        with pytest.raises(ValueError, match=f'^{len(broken)} bytes'):
            imfrombytes(broken)
    with pytest.raises(ValueError, match="'colour' for reading a picture; choose one of color, grayscale, unchanged"):
        imfrombytes(encode(picture), 'colour')


def test_imwrite(picture, tmp_path):
    path = tmp_path / 'new' / 'a.png'
    imwrite(picture, path)
    np.testing.assert_array_equal(cv2.imread(str(path)), picture)
    with pytest.raises(OSError, match=r'could not write the picture .*a\.nothing'):
        imwrite(picture, tmp_path / 'a.nothing')
    with pytest.raises(OSError, match='could not write the picture'):
        imwrite(picture, tmp_path / 'absent' / 'a.png', auto_mkdir=False)
    coarse, fine = tmp_path / 'coarse.jpg', tmp_path / 'fine.jpg'
    imwrite(picture, coarse, [cv2.IMWRITE_JPEG_QUALITY, 5])
    imwrite(picture, fine, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert coarse.stat().st_size < fine.stat().st_size


def test_crop_border(picture):
    np.testing.assert_array_equal(crop_border(picture, 2), picture[2:3, 2:5])
    np.testing.assert_array_equal(crop_border(picture, 0), picture)
    assert [img.shape for img in crop_border([picture, picture[..., 0]], 1)] == [(3, 5, 3), (3, 5)]
    for border in (-1, 3):
        with pytest.raises(ValueError, match=f'crop_border {border} does not fit a picture of 5x7'):
            crop_border(picture, border)


def test_file_client(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('ä', encoding='utf-8')
    client = FileClient()
    assert client.get(path, 'gt') == 'ä'.encode()
    assert client.get_text(str(path)) == 'ä'
    with pytest.raises(FileNotFoundError, match='absent'):
        client.get(tmp_path / 'absent')
    with pytest.raises(ValueError, match="'memcached' is not supported; it is disk or lmdb"):
        FileClient('memcached', db_paths='x')
    with pytest.raises(ValueError, match='a key for each folder'):
        FileClient('lmdb', db_paths=['x.lmdb', 'y.lmdb'], client_keys=['lq'])
    with pytest.raises(ValueError, match='remove db_paths'):
        FileClient('disk', db_paths='x')


def test_sixteen_bits_are_rounded_to_their_own_maximum():
    img = tensor2img(torch.tensor([[-1.0, 0.25], [0.5, 2.0]]), out_type=np.uint16)
    assert img.dtype == np.uint16
    assert img.tolist() == [[0, 16384], [32768, 65535]]
