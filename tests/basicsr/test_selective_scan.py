import pytest
import torch

from basicsr.ops.selective_scan import available_backends, selective_scan

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')


def inputs(batch, groups, dim, state, length, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    channels = groups * dim
    values = (
        normal(batch, channels, length),
        0.5 * normal(batch, channels, length),
        -torch.exp(0.5 * normal(channels, state)),
        normal(batch, groups, state, length),
        normal(batch, groups, state, length),
        normal(channels),
        normal(channels) - 1,
    )
    return [value.requires_grad_() for value in values]


def run(backend, tensors, softplus=True):
    y = selective_scan(*tensors, delta_softplus=softplus, backend=backend)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y, torch.autograd.grad((y * weight).sum(), [tensor for tensor in tensors if tensor is not None])


def test_reference_is_the_recurrence():
    u, delta, A, B, C, D, bias = (tensor.detach() for tensor in inputs(2, 2, 3, 4, 7))
    y = selective_scan(u, delta, A, B, C, D, bias, True, backend='reference')
    step = torch.log1p(torch.exp(delta + bias[:, None]))
    for b in range(2):
        for channel in range(6):
            h = torch.zeros(4, dtype=torch.float64)
            for t in range(7):
                d = step[b, channel, t]
                h = torch.exp(d * A[channel]) * h + d * B[b, channel // 3, :, t] * u[b, channel, t]
                expected = h @ C[b, channel // 3, :, t] + D[channel] * u[b, channel, t]
                assert y[b, channel, t].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(
    'shape',
    [(1, 1, 1, 1, 1), (2, 4, 5, 8, 63), (1, 4, 12, 16, 100), (3, 2, 7, 10, 31), (1, 1, 3, 64, 17), (2, 1, 33, 4, 2)],
)
def test_chunked_scan_against_reference(shape):
    y, gradients = run('reference', inputs(*shape))
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        own = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs(*shape)]
        y_own, gradients_own = run('torch', own)
        assert y_own.dtype is dtype
        for name, a, b in zip(('y', *NAMES), (y_own, *gradients_own), (y, *gradients), strict=True):
            error = (a.double() - b).norm() / b.norm().clamp(min=1e-12)
            assert error < tolerance, (name, dtype, error.item())


def test_blocks_of_rows_change_nothing(monkeypatch):
    whole = run('torch', inputs(3, 2, 4, 4, 20))
    monkeypatch.setattr('basicsr.ops.selective_scan.chunked._BLOCK', 1)
    rows = run('torch', inputs(3, 2, 4, 4, 20))
    assert torch.equal(whole[0], rows[0])
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole[1], rows[1], strict=True))


@pytest.mark.parametrize('backend', ['reference', 'torch'])
def test_gradcheck(backend):
    assert torch.autograd.gradcheck(
        lambda *tensors: selective_scan(*tensors, delta_softplus=True, backend=backend), inputs(2, 2, 2, 3, 5)
    )


@pytest.mark.parametrize('backend', ['reference', 'torch'])
def test_optional_arguments_and_views(backend):
    u, delta, A, B, C, _, _ = inputs(2, 2, 3, 4, 9)
    full = selective_scan(u, delta, A, B, C, torch.zeros(6), torch.zeros(6), False, backend)
    assert torch.equal(full, selective_scan(u, delta, A, B, C, backend=backend))
    strided = u.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(full, selective_scan(strided, delta, A, B, C, backend=backend))


def test_long_decays_do_not_overflow():
    u, delta, A, B, C, D, bias = inputs(1, 1, 2, 4, 400, torch.float32)
    y = selective_scan(u, delta, A * 100, B, C, D, bias + 5, True, 'torch')
    reference = selective_scan(u, delta, A * 100, B, C, D, bias + 5, True, 'reference')
    assert torch.isfinite(y).all()
    assert torch.allclose(y, reference, rtol=1e-4, atol=1e-4)


def test_half_precision_is_computed_in_float32_and_returned_in_its_type():
    tensors = [tensor.detach() for tensor in inputs(1, 2, 3, 4, 50, torch.float32)]
    half = selective_scan(*[tensors[0].bfloat16(), *tensors[1:]], delta_softplus=True, backend='torch')
    exact = selective_scan(*[tensors[0].bfloat16().float(), *tensors[1:]], delta_softplus=True, backend='torch')
    assert half.dtype is torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


def test_nan_stays_nan():
    tensors = [tensor.detach() for tensor in inputs(1, 1, 2, 4, 30)]
    tensors[0][0, 0, 10] = float('nan')
    y = selective_scan(*tensors, delta_softplus=True, backend='torch')
    assert torch.isnan(y[0, 0, 10:]).all()
    assert torch.isfinite(y[0, 0, :10]).all() and torch.isfinite(y[0, 1]).all()


def test_empty_length():
    tensors = [tensor.detach() for tensor in inputs(1, 1, 2, 4, 0)]
    for backend in ('reference', 'torch'):
        assert selective_scan(*tensors, backend=backend).shape == (1, 2, 0)


def test_wrong_use_is_named():
    u, delta, A, B, C, D, bias = inputs(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match=r'C must have the shape \(1, 2, 4, 5\)'):
        selective_scan(u, delta, A, B, C[..., :4])
    with pytest.raises(ValueError, match=r'delta_bias must have the shape \(6,\)'):
        selective_scan(u, delta, A, B, C, D, bias[:2])
    with pytest.raises(ValueError, match='5 channels cannot be shared out among the 2 groups'):
        selective_scan(u[:, :5], delta[:, :5], A[:5], B, C)
    with pytest.raises(ValueError, match="'trition'; choose from reference"):
        selective_scan(u, delta, A, B, C, backend='trition')
    if 'mamba_ssm' not in available_backends('cpu'):
        with pytest.raises(ValueError, match="'mamba_ssm' does not work on cpu"):
            selective_scan(u, delta, A, B, C, backend='mamba_ssm')
