"""The causal convolution of Vision Mamba: against sums written out, and by way of the package's kernel."""

import sys
import types

import pytest
import torch
from torch.nn.functional import conv1d, pad, silu

from basicsr.ops import causal_conv1d
from basicsr.ops.causal_conv1d import two_way_causal_conv1d


@pytest.fixture
def forget():
    causal_conv1d._fused.cache_clear()
    yield
    causal_conv1d._fused.cache_clear()


def given(width, bias=True, channels=3):
    generator = torch.Generator().manual_seed(0)
    kernels = tuple(torch.randn(channels, 1, width, generator=generator) for _ in range(2))
    biases = tuple(torch.randn(channels, generator=generator) if bias else None for _ in range(2))
    return torch.randn(2, channels, 7, generator=generator), kernels, biases


@pytest.mark.parametrize(('width', 'bias'), [(4, True), (3, False), (1, True)])
def test_each_place_sees_what_precedes_it(width, bias):
    x, kernels, biases = given(width, bias)
    made = two_way_causal_conv1d(x, kernels, biases).unflatten(1, (2, -1))
    for way, step in ((0, -1), (1, 1)):
        for place in range(7):
            total = torch.zeros(2, 3) if biases[way] is None else biases[way].expand(2, 3)
            for back in range(width):
                if 0 <= place + step * back < 7:
                    total = total + kernels[way][:, 0, width - 1 - back] * x[:, :, place + step * back]
            torch.testing.assert_close(made[:, way, :, place], silu(total))


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it lies on a GPU."""

    is_cuda = True


def stand_in(called):
    """The package by its documentation: x (batch, channels, length), weight (channels, width), bias (channels,)."""

    def causal_conv1d_fn(x, weight, bias=None, *, activation=None):
        called.append((tuple(x.shape), tuple(weight.shape), activation))
        assert weight.ndim == 2 and x.stride(-1) == 1
        x = x.as_subclass(torch.Tensor)
        return silu(conv1d(pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=len(weight)))

    module = types.ModuleType('causal_conv1d')
    module.__spec__ = types.SimpleNamespace(name='causal_conv1d')
    module.causal_conv1d_fn = causal_conv1d_fn
    return module


def test_the_package_computes_it_on_a_gpu(monkeypatch, forget):
    called = []
    monkeypatch.setitem(sys.modules, 'causal_conv1d', stand_in(called))
    x, kernels, biases = given(4)
    expected = two_way_causal_conv1d(x, kernels, biases)
    assert called == [], 'never for the CPU'
    made = two_way_causal_conv1d(x.as_subclass(OnGpu), kernels, biases)
    assert called == [((2, 3, 7), (3, 4), 'silu')] * 2
    torch.testing.assert_close(made.as_subclass(torch.Tensor), expected)
    two_way_causal_conv1d(*given(5)[:1], *given(5)[1:])
    wide = given(5)
    two_way_causal_conv1d(wide[0].as_subclass(OnGpu), *wide[1:])
    two_way_causal_conv1d(
        x.double().as_subclass(OnGpu), *([one.double() for one in each] for each in (kernels, biases))
    )
    assert len(called) == 2, 'neither for kernels that it has no code for, nor in float64'


def test_a_package_that_does_not_import_is_named_and_left_aside(monkeypatch, forget, logged):
    broken = types.ModuleType('causal_conv1d')
    broken.__spec__ = types.SimpleNamespace(name='causal_conv1d')
    monkeypatch.setitem(sys.modules, 'causal_conv1d', broken)
    x, kernels, biases = given(4)
    for _ in range(2):
        made = two_way_causal_conv1d(x.as_subclass(OnGpu), kernels, biases)
        torch.testing.assert_close(made.as_subclass(torch.Tensor), two_way_causal_conv1d(x, kernels, biases))
    [line] = logged.warnings()
    assert line.startswith('causal-conv1d is installed but does not import (cannot import name')
