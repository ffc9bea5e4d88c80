"""Where the traits of a network come from."""

import pytest
from torch import nn

from basicsr.archs.mambair_arch import MambaIR
from basicsr.archs.traits import Traits, scale_of, traits_of


class Windowed(nn.Module):
    """As third-party networks with windows are."""

    def __init__(self, window_size):
        super().__init__()
        self.window_size = window_size


def test_a_networks_own_come_first():
    net = Windowed(8)
    assert traits_of(net, {'window_size': 16}) == Traits(size_multiple=8)
    net.traits = Traits(size_multiple=3, smallest_side=12)
    assert traits_of(net, {'window_size': 16}) == net.traits


@pytest.mark.parametrize(('window', 'multiple'), [(7, 7), ((8, 8), 8), ([8, 32], 32)])
def test_windows_say_multiples(window, multiple):
    assert traits_of(Windowed(window)).size_multiple == multiple
    assert traits_of(nn.Conv2d(3, 3, 1), {'type': 'HAT', 'window_size': window}).size_multiple == multiple


def test_defaults():
    assert traits_of(nn.Conv2d(3, 3, 1)) == traits_of(nn.Conv2d(3, 3, 1), {'type': 'Own'}) == Traits()
    assert traits_of(Windowed(None)) == Traits()


def test_mambair_likes_tiles_of_200_pixels():
    assert (MambaIR.traits.tile_size, MambaIR.traits.tile_overlap, MambaIR.traits.size_multiple) == (200, 0.1, 1)


@pytest.mark.parametrize('window', ['8', 0, True, [], (8, 'x'), 2.5])
def test_windows_that_are_none(window):
    with pytest.raises(ValueError, match='window_size is a positive integer'):
        traits_of(Windowed(window))


def test_traits_that_are_none():
    net = nn.Conv2d(3, 3, 1)
    net.traits = {'size_multiple': 8}
    with pytest.raises(TypeError, match=r'Conv2d\.traits is a basicsr\.archs\.traits\.Traits'):
        traits_of(net)
    with pytest.raises(ValueError, match='size_multiple and smallest_side are at least 1, not 0'):
        Traits(size_multiple=0)
    with pytest.raises(ValueError, match=r'tile_overlap in \[0, 1\), not 0 and 1'):
        Traits(tile_overlap=1)


@pytest.mark.parametrize(
    ('traits', 'size', 'lacks'),
    [
        (Traits(), (5, 7), (0, 0)),
        (Traits(size_multiple=8), (5, 16), (3, 0)),
        (Traits(size_multiple=8, smallest_side=12), (5, 17), (11, 7)),
        (Traits(size_multiple=8, square=True), (5, 17), (19, 7)),
        (Traits(smallest_side=16), (40, 3), (0, 13)),
    ],
)
def test_what_an_input_lacks(traits, size, lacks):
    assert traits.padding(*size) == lacks


def test_scales():
    net = Windowed(8)
    assert scale_of(net) is None
    net.scale = 3
    assert scale_of(net) == 3
    net.upscale = nn.Conv2d(3, 3, 1)
    assert scale_of(net) == 3, 'a layer called upscale is no number'
    net.traits = Traits(scale=2)
    assert scale_of(net) == 2
    assert scale_of(MambaIR(embed_dim=30, depths=[1], d_state=1, upscale=4, upsampler='pixelshuffle')) == 4
