"""Tiles that fade into each other or become smaller where memory runs out, and inputs that fit the network."""

import pytest
import torch
from torch import nn

from basicsr.archs.traits import Traits
from basicsr.models.mambair_model import MambaIRModel
from basicsr.models.tiling import Tiling, fitted, tiled
from basicsr.utils.registry import ARCH_REGISTRY

SIZES = [(20, 26), (23, 31), (7, 50), (64, 64)]
CPU_IS_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('height, width', SIZES)
@pytest.mark.parametrize('overlap', [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize('scale', [1, 3])
def test_blended_is_whole_for_a_network_of_points(height, width, overlap, scale):
    lq = rand(2, 3, height, width)

    def network(x):
        return nn.functional.interpolate(x**2 + 1, scale_factor=scale)

    torch.testing.assert_close(tiled(network, lq, scale, 11, overlap, 'blended'), network(lq))


@pytest.mark.parametrize('height, width', SIZES)
def test_blended_is_whole_up_to_half_the_margin(height, width):
    """Three 3x3 convolutions see three pixels far, and half of the margin of a tile is at least three."""
    torch.manual_seed(0)
    convs = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1))
    network = nn.Sequential(convs, nn.PixelShuffle(2))
    lq = rand(1, 1, height, width)
    with torch.no_grad():
        blended, whole = tiled(network, lq, 2, 13, 0.9, 'blended'), network(lq)
        # At the lower and right edge a picture that was padded is seen further.
        inner = (..., slice(-8), slice(-8))
        torch.testing.assert_close(blended[inner], whole[inner])
        thin = tiled(network, lq, 2, 13, 0.1, 'blended')
        assert not torch.allclose(thin[inner], whole[inner], atol=1e-4), 'a margin of one pixel does not do'


def test_blended_shows_no_seam():
    """A network whose tiles differ in brightness: official tiles step from one to the next, blended ones do not."""
    brightness = iter(range(100))

    def network(x):
        return torch.full_like(x, next(brightness) % 2)

    lq = rand(1, 1, 8, 100)  # two tiles of 50 with a margin of 10
    official, blended = (tiled(network, lq, 1, 60, 0.2, mode)[0, 0, 0] for mode in ('official', 'blended'))
    assert official.diff().abs().max() == 1
    assert blended.diff().abs().max() < 0.2
    assert (blended.diff() >= 0).all() and blended[0] == 0 and blended[-1] == 1
    assert blended[45:55].sum() == pytest.approx(5, abs=1e-5), 'even around the middle'


def test_modes_are_known():
    with pytest.raises(ValueError, match=r"val\.tile_mode must be official or blended, not 'mixed'"):
        Tiling(mode='mixed')


class Narrow(nn.Module):
    """x2, one pixel by one; runs out of memory above `largest` pixels, as a real network does."""

    def __init__(self, largest: int = 40 * 40, error: Exception | None = None):
        super().__init__()
        self.largest, self.error, self.seen = largest, error or torch.OutOfMemoryError('CUDA out of memory.'), []

    def forward(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        if x.shape[-2] * x.shape[-1] > self.largest:
            raise self.error
        return nn.functional.interpolate(x, scale_factor=2)


@pytest.mark.parametrize('error', [None, CPU_IS_FULL], ids=['gpu', 'cpu'])
@pytest.mark.parametrize('mode', ['official', 'blended'])
@pytest.mark.parametrize('tile', [0, 200, 1000])
def test_tiles_are_halved_until_they_fit(error, mode, tile, logged):
    network, tiling, lq = Narrow(error=error), Tiling(tile, 0.1, mode), rand(1, 3, 100, 150)
    with torch.no_grad():
        result = tiling.run(network, lq, 2)
    torch.testing.assert_close(result, nn.functional.interpolate(lq, scale_factor=2))
    assert tiling.tile == 37  # 150, or what of 200 and 1000 is in the picture; 75; 37
    assert [line.split(';')[0] for line in logged.warnings()] == [
        'Out of memory: pictures are cut into tiles of about 75 pixels from now on, not 150',
        'Out of memory: pictures are cut into tiles of about 37 pixels from now on, not 75',
    ]
    network.seen.clear()
    tiling.run(network, lq, 2)
    assert all(a * b <= network.largest for a, b in network.seen), 'the next picture begins with the smaller tile'
    assert len(logged.warnings()) == 2


def test_the_smallest_tile_gives_up():
    network, tiling = Narrow(largest=0), Tiling(200)
    with pytest.raises(torch.OutOfMemoryError):
        tiling.run(network, rand(1, 3, 100, 150), 2)
    assert tiling.tile == 37
    assert len({size for size in network.seen}) == 3, 'no tile is tried twice'


def test_other_errors_go_up_at_once():
    network = Narrow(error=RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    with pytest.raises(RuntimeError, match='shapes'):
        Tiling(0).run(network, rand(1, 3, 100, 150), 2)
    assert len(network.seen) == 1


def test_a_model_keeps_the_smaller_tile_around_its_ensemble(monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._objects, 'Narrow', Narrow)
    opt = {
        **{'name': 'trial', 'scale': 2, 'num_gpu': 0, 'is_train': False, 'dist': False, 'rank': 0, 'path': {}},
        **{'network_g': {'type': 'Narrow'}, 'val': {'tile_mode': 'blended', 'selfensemble_testing': True}},
    }
    model, lq = MambaIRModel(opt), rand(1, 3, 100, 150)
    model.feed_data({'lq': lq})
    for _ in range(2):
        model.test()
        torch.testing.assert_close(model.output, nn.functional.interpolate(lq, scale_factor=2))
    assert (model.tiling.tile, model.tiling.mode) == (37, 'blended')
    assert sum(height * width > 40 * 40 for height, width in model.net_g.seen) == 2, 'two tries failed in two pictures'


@pytest.mark.parametrize('values', [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
@pytest.mark.parametrize(('height', 'width'), [(5, 7), (8, 8), (1, 13)])
def test_a_network_gets_sizes_and_values_that_it_takes(values, height, width):
    traits, seen = Traits(size_multiple=4, smallest_side=8, square=True, pixel_range=values), []

    def network(x):
        seen.append(x)
        return torch.nn.functional.interpolate(x, scale_factor=2)

    lq = rand(2, 3, height, width)
    output = fitted(network, traits, lq, scale=2)
    assert torch.allclose(output, torch.nn.functional.interpolate(lq, scale_factor=2), atol=1e-6)
    side = 16 if width == 13 else 8
    assert seen[0].shape == (2, 3, side, side)
    low, high = values
    assert torch.allclose(seen[0][..., :height, :width], lq * (high - low) + low, atol=1e-5 * (high - low))
