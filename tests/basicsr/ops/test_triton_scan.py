"""The Triton kernels of the selective scan, on a GPU, or one thread after the other in Triton's interpreter.

The interpreter has to be asked for before triton is imported, and is then used by the whole process. So the tests of
this file are for the process that they run in: the GPU's, and the interpreter's where TRITON_INTERPRET=1 is set. One
test more, for ordinary processes, runs the file again in a process of its own with that variable.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from basicsr.ops.selective_scan.reference import reference_scan

pytest.importorskip('triton', reason='Triton is not installed')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'bias')
needs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason='neither a GPU nor TRITON_INTERPRET=1'
)
needs_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason='needs a GPU')


@pytest.fixture(scope='module')
def kernels():
    """The module under test."""
    import triton
    import triton.language as tl

    if INTERPRETED:

        @triton.jit
        def loop(to, count):
            for i in range(count):
                tl.store(to + i, 1.0)

        try:
            loop[(1,)](torch.zeros(2), 2)
        except triton.runtime.errors.InterpreterError as error:
            pytest.skip(f'the interpreter of Triton {triton.__version__} cannot count with this NumPy: {error}')
    from basicsr.ops.selective_scan import triton_scan

    return triton_scan


def inputs(batch, groups, u_groups, dim, state, length, seed=0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return [
        normal(batch, u_groups, dim, length),
        0.5 * normal(batch, groups, dim, length),
        -torch.exp(0.5 * normal(groups, dim, state)),
        normal(batch, groups, state, length),
        normal(batch, groups, state, length),
        normal(groups, dim),
        normal(groups, dim) - 1,
    ]


def reference(u, delta, A, B, C, D, bias, softplus, backwards) -> Tensor:
    """y, (batch, groups, dim, length), by the definition: repeat u for its groups, flip the groups walked backwards."""
    ahead = delta.shape[1] - backwards

    def flipped(tensor):
        return torch.cat([tensor[:, :ahead], tensor[:, ahead:].flip(-1)], 1)

    u = u.repeat(1, delta.shape[1] // u.shape[1], 1, 1)
    u, delta_, B, C = (flipped(tensor) for tensor in (u, delta, B, C))
    flat = (None if tensor is None else tensor.flatten(0, 1) for tensor in (A, D, bias))
    A, D, bias = flat
    y = reference_scan(u.flatten(1, 2), delta_.flatten(1, 2), A, B, C, D, bias, softplus)
    return flipped(y.view(delta.shape))


def on_device(tensors) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


def errors(kernels, tensors, softplus, backwards) -> dict[str, float]:
    """Errors of y and all gradients relative to the norm of what float64 makes of the definition."""
    exact = [None if tensor is None else tensor.double().requires_grad_() for tensor in tensors]
    expected = reference(*exact, softplus, backwards)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    there = [tensor for tensor in exact if tensor is not None]
    gradients = iter(torch.autograd.grad((expected * weight).sum(), there))
    own = on_device(tensors)
    y, kept = kernels.forward(*own, softplus, backwards, True)
    found = kernels.backward(weight.to(DEVICE), *own, kept, softplus, backwards)
    pairs = {'y': (y, expected.detach())}
    for name, gradient, tensor in zip(NAMES, found, tensors, strict=True):
        if tensor is not None:
            pairs[name] = (gradient, next(gradients))
    for name, (a, b) in pairs.items():
        assert a.shape == b.shape and a.dtype == torch.float32 and a.is_contiguous(), name
    # A state that is 0 before its only step has no gradient by A.
    return {name: ((a.cpu() - b).norm() / b.norm().clamp(min=1e-6)).item() for name, (a, b) in pairs.items()}


@needs_kernels
@pytest.mark.parametrize(
    ('shape', 'backwards', 'without', 'softplus'),
    [
        ((1, 1, 1, 1, 1, 1), 0, (), True),
        ((2, 2, 1, 3, 4, 37), 1, (), True),
        ((1, 4, 2, 1, 8, 66), 2, (), True),
        ((1, 2, 2, 1, 10, 100), 2, (), True),
        ((1, 1, 1, 1, 16, 72), 1, (), True),
        ((1, 1, 1, 17, 4, 20), 0, (), True),
        ((1, 2, 1, 8, 2, 260), 1, (), True),
        ((1, 2, 1, 3, 3, 130), 1, ('D', 'bias'), False),
        ((1, 1, 1, 2, 4, 64), 0, ('D',), True),
        ((1, 1, 1, 2, 4, 12), 1, ('bias',), True),
    ],
    ids=str,
)
def test_output_and_gradients(kernels, shape, backwards, without, softplus):
    tensors = inputs(*shape)
    if not softplus:
        tensors[1] = tensors[1].abs()
    tensors = [None if name in without else tensor for name, tensor in zip(NAMES, tensors, strict=True)]
    for name, error in errors(kernels, tensors, softplus, backwards).items():
        assert error < 1e-5, (name, error)


@needs_kernels
def test_fast_and_slow_decay(kernels):
    """Decays of a whole tile that are 0, and states that never decay."""
    tensors = inputs(1, 2, 2, 2, 2, 90)
    tensors[2][:, 0] = torch.tensor([-60.0, 0.0])
    tensors[1] *= 8
    for name, error in errors(kernels, tensors, True, 1).items():
        assert error < 1e-5, (name, error)


@needs_kernels
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('value', [float('nan'), float('inf')], ids=str)
def test_what_is_not_finite_stays_so(kernels, name, value):
    tensors = inputs(1, 2, 2, 1, 1, 22)
    tensors[NAMES.index(name)].flatten(0, -2)[:, -1] = value
    expected = reference(*tensors, True, 1)
    y, _ = kernels.forward(*on_device(tensors), True, 1, False)
    assert not expected.isfinite().all()
    assert torch.equal(y.cpu().isfinite(), expected.isfinite())


@needs_kernels
def test_without_keeping_states_the_output_is_the_same(kernels):
    tensors = on_device(inputs(1, 2, 1, 1, 2, 515))
    y, kept = kernels.forward(*tensors, True, 1, True)
    again, nothing = kernels.forward(*tensors, True, 1, False)
    assert torch.equal(y, again)
    assert kept.numel() <= tensors[1].numel() * 2 / 32 and nothing.numel() == 0


@needs_kernels
@pytest.mark.parametrize('shape', [(0, 2, 1, 3, 4, 5), (1, 2, 1, 3, 4, 0)], ids=str)
def test_nothing_to_scan(kernels, shape):
    tensors = on_device(inputs(*shape))
    y, kept = kernels.forward(*tensors, True, 1, True)
    gradients = kernels.backward(y, *tensors, kept, True, 1)
    assert y.shape == tensors[1].shape
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


@needs_gpu
@pytest.mark.parametrize(
    ('shape', 'backwards'),
    [((2, 4, 2, 90, 16, 2304), 2), ((1, 4, 4, 45, 10, 1023), 4), ((3, 1, 1, 33, 64, 400), 0)],
    ids=str,
)
def test_large_inputs(kernels, shape, backwards):
    for name, error in errors(kernels, inputs(*shape), True, backwards).items():
        assert error < 1e-5, (name, error)


@needs_gpu
def test_gradients_are_the_same_every_time(kernels):
    tensors = on_device(inputs(2, 4, 2, 90, 16, 1000))
    y, kept = kernels.forward(*tensors, True, 2, True)
    first, second = (kernels.backward(y, *tensors, kept, True, 2) for _ in range(2))
    for name, a, b in zip(NAMES, first, second, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.skipif(INTERPRETED, reason='runs the other tests in the interpreter')
def test_in_the_interpreter():
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-rs', str(Path(__file__).resolve())]
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(
        command, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    if ' passed' not in result.stdout:
        pytest.skip(result.stdout.strip())
