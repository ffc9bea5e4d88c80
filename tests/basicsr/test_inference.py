"""How pictures are tested: padded to windows, in tiles, flipped and turned."""

import logging

import pytest
import torch

from basicsr.models import build_model
from basicsr.models.self_ensemble import self_ensemble
from basicsr.models.tiling import pad_mirrored, tiled
from basicsr.utils.misc import set_random_seed
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class Windows(torch.nn.Module):
    """x2, by a convolution; takes whole windows alone, and remembers what it saw."""

    def __init__(self, window_size: int = 1):
        super().__init__()
        self.window_size, self.seen = window_size, []
        self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x):
        assert x.shape[-2] % self.window_size == x.shape[-1] % self.window_size == 0
        self.seen.append(tuple(x.shape[-2:]))
        return torch.nn.functional.pixel_shuffle(self.conv(x), 2)


def model(model_type='SRModel', window=1, **val):
    opt = {
        **{'name': 'trial', 'model_type': model_type, 'scale': 2, 'num_gpu': 0, 'is_train': False, 'dist': False},
        **{'rank': 0, 'path': {}, 'network_g': {'type': 'Windows', 'window_size': window}, 'val': val},
    }
    set_random_seed(0)
    return build_model(opt)


def output(model, lq):
    model.feed_data({'lq': lq})
    model.test()
    return model.output


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('height, width', [(8, 16), (9, 13), (3, 5), (1, 2), (1, 1)])
def test_swinir_pads_to_windows_by_reflection_and_crops(height, width):
    swinir, lq = model('SwinIRModel', 8), rand(1, 3, height, width)
    result = output(swinir, lq)
    assert result.shape == (1, 3, 2 * height, 2 * width)
    rows, columns = (-(-side // 8) * 8 for side in (height, width))
    assert swinir.net_g.seen == [(rows, columns)]
    # A convolution of 3x3 sees one row and column of what was added: the mirrored ones.
    fold = [min(2 * (side - 1) - side, side - 1) if side > 1 else 0 for side in (height, width)]
    padded = torch.cat([lq, lq[:, :, fold[0], None]], 2) if rows > height else lq
    padded = torch.cat([padded, padded[..., fold[1], None]], 3) if columns > width else padded
    with torch.no_grad():
        expected = model('SwinIRModel', 1).net_g(padded)[..., : 2 * height, : 2 * width]
    torch.testing.assert_close(result, expected)


def test_swinir_without_windows_is_srmodel():
    lq = rand(1, 3, 5, 7)
    assert torch.equal(output(model('SwinIRModel'), lq), output(model(), lq))


def test_padding_reflects_as_often_as_it_must():
    line = torch.arange(3.0).view(1, 1, 1, 3)
    assert pad_mirrored(line, 7, 0).flatten().tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    assert torch.equal(pad_mirrored(line.mT, 0, 7), pad_mirrored(line, 7, 0).mT)
    assert pad_mirrored(line[..., :1], 2, 3).shape == (1, 1, 4, 3)
    assert torch.equal(pad_mirrored(line, 0, 0), line)


@pytest.mark.parametrize('model_type', ['SRModel', 'SwinIRModel', 'MambaIRModel'])
def test_patchwise_testing(model_type):
    lq = rand(1, 3, 20, 26)
    whole = output(model('SRModel'), lq)
    patches = model(
        model_type, 4 if model_type == 'SwinIRModel' else 1, patchwise_testing=True, tile_size=11, tile_overlap=0.25
    )
    # Margins are wider than what the convolution sees beyond a tile; at the picture's edge it sees what was padded.
    torch.testing.assert_close(output(patches, lq)[..., :-2, :-2], whole[..., :-2, :-2])
    assert len(patches.net_g.seen) == 6


@pytest.mark.parametrize('model_type, tiles', [('SRModel', 1), ('SwinIRModel', 1), ('MambaIRModel', 6)])
@pytest.mark.parametrize('val', [{}, {'patchwise_testing': False}, {'patchwise_testing': None}], ids=str)
def test_tiles_by_default(model_type, tiles, val, caplog):
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    try:
        one = model(model_type, tile_size=11, **val)
    finally:
        logger.removeHandler(caplog.handler)
    output(one, rand(1, 3, 20, 26))
    assert len(one.net_g.seen) == tiles
    told = 'patchwise_testing: false leaves tiles as they are' in caplog.text
    assert told == (model_type == 'MambaIRModel' and val.get('patchwise_testing') is False)


def test_patches_of_no_size_are_a_mistake():
    with pytest.raises(ValueError, match=r'val\.patchwise_testing is true and val\.tile_size 0'):
        model(patchwise_testing=True, tile_size=0)


def test_self_ensemble_is_the_mean_of_eight():
    seen, lq = [], rand(1, 1, 3, 4)

    def skewed(x):
        """Enlarges, and adds a ramp from the left and a steeper one from the top, x-dependent in the corner."""
        seen.append(x)
        out = torch.nn.functional.interpolate(x, scale_factor=2)
        rows, columns = (torch.arange(float(side)) for side in out.shape[-2:])
        return out + columns + 10 * rows[:, None] + 100 * (rows[:, None] < 1) * (columns < 1)

    result = self_ensemble(skewed, lq)
    assert result.shape == (1, 1, 6, 8)
    assert len({x.numpy().tobytes() + bytes(x.shape) for x in seen}) == 8
    assert [tuple(x.shape[-2:]) for x in seen].count((4, 3)) == 4
    expected = 0
    for turns in range(4):
        for mirrored in (False, True):
            x = torch.rot90(lq.flip(-1) if mirrored else lq, turns, (-2, -1))
            y = torch.rot90(skewed(x), -turns, (-2, -1))
            expected = expected + (y.flip(-1) if mirrored else y) / 8
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize('model_type', ['SRModel', 'SwinIRModel', 'MambaIRModel'])
def test_self_ensemble_in_a_model_goes_around_tiles(model_type):
    lq = rand(1, 3, 20, 26)
    ensemble = model(model_type, selfensemble_testing=True, patchwise_testing=True, tile_size=11)
    result = output(ensemble, lq)
    assert len(ensemble.net_g.seen) == 8 * 6
    plain = model(model_type, tile_size=0)
    with torch.no_grad():
        expected = self_ensemble(lambda x: tiled(plain.net_g, x, 2, 11), lq)
        assert not torch.allclose(expected, plain.net_g(lq), atol=1e-3)
    torch.testing.assert_close(result, expected)
