import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import basicsr.ops.selective_scan as selective_scan_module
from basicsr.ops.selective_scan import available_backends, cpu_scan, selective_scan
from basicsr.ops.selective_scan.operator import scan, scan_backward

FAST = [
    'torch',
    pytest.param(
        'cpu', marks=pytest.mark.skipif('cpu' not in available_backends('cpu'), reason='no compiler that builds it')
    ),
]
ROOT = Path(__file__).parents[3]
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


def run(backend, tensors, softplus=True, reverse_groups=0):
    y = selective_scan(*tensors, delta_softplus=softplus, backend=backend, reverse_groups=reverse_groups)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y, torch.autograd.grad((y * weight).sum(), [tensor for tensor in tensors if tensor is not None])


def assert_close(own, expected, tolerance):
    """Relative errors, in the norm, of y and all seven gradients."""
    for name, a, b in zip(('y', *NAMES), (own[0], *own[1]), (expected[0], *expected[1]), strict=True):
        error = (a.double() - b).norm() / b.norm().clamp(min=1e-12)
        assert error < tolerance, (name, error.item())


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


@pytest.mark.parametrize('backend', FAST)
@pytest.mark.parametrize('reverse_groups', [0, 1, 2])
@pytest.mark.parametrize(
    'shape',
    [
        *[(1, 2, 1, 1, 1), (2, 4, 5, 8, 63), (1, 4, 12, 16, 100), (3, 2, 7, 10, 31), (1, 2, 3, 64, 17)],
        *[(2, 2, 33, 4, 2), (1, 2, 16, 16, 64), (1, 2, 48, 4, 33), (1, 2, 17, 5, 129)],
    ],
)
def test_fast_backends_against_reference(backend, shape, reverse_groups):
    expected = run('reference', inputs(*shape), reverse_groups=reverse_groups)
    own = [tensor.detach().float().requires_grad_() for tensor in inputs(*shape)]
    assert_close(run(backend, own, reverse_groups=reverse_groups), expected, 1e-5)
    if backend == 'torch':
        assert_close(run(backend, inputs(*shape), reverse_groups=reverse_groups), expected, 1e-11)


@pytest.mark.parametrize('backend', ['reference', *FAST])
def test_groups_share_an_input(backend):
    tensors = [tensor.detach().float() for tensor in inputs(2, 4, 5, 4, 20)]
    shared = tensors[0][:, :10].clone().requires_grad_()
    repeated = shared.detach().repeat(1, 2, 1).requires_grad_()
    results = []
    for u in (shared, repeated):
        y = selective_scan(u, *tensors[1:], delta_softplus=True, backend=backend, reverse_groups=2)
        y.square().sum().backward()
        results.append(y)
    assert torch.allclose(*results, atol=1e-6)
    assert torch.allclose(shared.grad, repeated.grad[:, :10] + repeated.grad[:, 10:], atol=1e-4)


def test_backwards_is_the_flipped_scan():
    u, delta, A, B, C, D, bias = (tensor.detach() for tensor in inputs(2, 2, 3, 4, 9))
    y = selective_scan(u, delta, A, B, C, D, bias, True, 'reference', reverse_groups=2)
    flipped = selective_scan(*(t.flip(-1) for t in (u, delta)), A, B.flip(-1), C.flip(-1), D, bias, True, 'reference')
    assert torch.equal(y, flipped.flip(-1))


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


@pytest.mark.parametrize('backend', ['reference', *FAST])
def test_optional_arguments_and_views(backend):
    u, delta, A, B, C, _, _ = (tensor.detach().float() for tensor in inputs(2, 2, 3, 4, 9))
    full = selective_scan(u, delta, A, B, C, torch.zeros(6), torch.zeros(6), False, backend)
    assert torch.equal(full, selective_scan(u, delta, A, B, C, backend=backend))
    strided = u.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(full, selective_scan(strided, delta, A, B, C, backend=backend))


@pytest.mark.parametrize('backend', FAST)
def test_long_decays_do_not_overflow(backend):
    u, delta, A, B, C, D, bias = inputs(1, 1, 2, 4, 400, torch.float32)
    y = selective_scan(u, delta, A * 100, B, C, D, bias + 5, True, backend)
    reference = selective_scan(u, delta, A * 100, B, C, D, bias + 5, True, 'reference')
    assert torch.isfinite(y).all()
    assert torch.allclose(y, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('backend', FAST)
def test_half_precision_is_computed_in_float32_and_returned_in_its_type(backend):
    tensors = [tensor.detach() for tensor in inputs(1, 2, 3, 4, 50, torch.float32)]
    half = selective_scan(*[tensors[0].bfloat16(), *tensors[1:]], delta_softplus=True, backend=backend)
    exact = selective_scan(*[tensors[0].bfloat16().float(), *tensors[1:]], delta_softplus=True, backend=backend)
    assert half.dtype is torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


@pytest.mark.parametrize('backend', ['reference', *FAST])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('where', range(7))
def test_nan_and_inf_come_out_where_they_come_out_of_the_reference(backend, bad, where):
    tensors = [tensor.detach().float() for tensor in inputs(1, 1, 3, 4, 40)]
    tensors[where].view(-1)[1] = bad
    expected = selective_scan(*tensors, delta_softplus=True, backend='reference')
    y = selective_scan(*tensors, delta_softplus=True, backend=backend)
    assert torch.equal(torch.isfinite(y), torch.isfinite(expected))


@pytest.mark.parametrize('backend', FAST)
def test_one_operator_for_the_compiler(backend):
    u, delta, A, B, C, D, bias = (tensor.detach().float() for tensor in inputs(2, 2, 3, 4, 9))
    grouped = (u.view(2, 2, 3, 9), delta.view(2, 2, 3, 9), A.view(2, 3, 4), B, C, D.view(2, 3), bias.view(2, 3))
    grouped = [tensor.clone().requires_grad_() for tensor in grouped]
    for optional in (grouped[5:], [None, None]):
        torch.library.opcheck(scan, (*grouped[:5], *optional, True, 1, True, backend))
    detached = [tensor.detach() for tensor in grouped]
    _, kept = scan(*detached, True, 1, True, backend)
    torch.library.opcheck(scan_backward, (detached[1], *detached, kept, True, 1, backend))

    def network(u):
        return selective_scan(u.sin(), delta, A, B, C, D, bias, True, backend, reverse_groups=1).cos()

    compiled = torch.compile(network, fullgraph=True, backend='aot_eager')
    first, second = u.clone().requires_grad_(), u.clone().requires_grad_()
    assert torch.allclose(compiled(first), network(second), atol=1e-6)
    compiled(first).sum().backward()
    network(second).sum().backward()
    assert torch.allclose(first.grad, second.grad, atol=1e-5)


@pytest.mark.parametrize('backend', FAST)
def test_under_autocast_and_checkpoint(backend):
    tensors = [tensor.detach().float().requires_grad_() for tensor in inputs(1, 2, 3, 4, 20)]
    expected = run(backend, tensors)
    with torch.autocast('cpu', torch.bfloat16):
        y = selective_scan(*tensors, delta_softplus=True, backend=backend)
    assert y.dtype is torch.float32 and torch.equal(y, expected[0])

    def block(*args):
        return selective_scan(*args, delta_softplus=True, backend=backend)

    y = torch.utils.checkpoint.checkpoint(block, *tensors, use_reentrant=False)
    weight = torch.linspace(-1, 1, y.numel()).view_as(y)
    gradients = torch.autograd.grad((y * weight).sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected[1], strict=True))


@pytest.mark.parametrize('backend', FAST)
def test_backward_keeps_little(backend):
    batch, groups, dim, state, length = 1, 4, 32, 16, 640
    tensors = [tensor.detach().float().requires_grad_() for tensor in inputs(batch, groups, dim, state, length)]
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(*tensors, delta_softplus=True, backend=backend)
    own = sum(tensor.numel() for tensor in tensors)
    assert 0 < sum(saved) < own + batch * groups * dim * state * length / 8


def test_empty_length():
    tensors = [tensor.detach() for tensor in inputs(1, 1, 2, 4, 0)]
    for backend in ('reference', 'torch', *({'cpu'} & set(available_backends('cpu')))):
        assert selective_scan(*(tensor.float() for tensor in tensors), backend=backend).shape == (1, 2, 0)


def test_wrong_use_is_named():
    u, delta, A, B, C, D, bias = inputs(1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match=r'C must have the shape \(1, 2, 4, 5\)'):
        selective_scan(u, delta, A, B, C[..., :4])
    with pytest.raises(ValueError, match=r'delta_bias must have the shape \(6,\)'):
        selective_scan(u, delta, A, B, C, D, bias[:2])
    with pytest.raises(ValueError, match='5 channels cannot be shared out among the 2 groups'):
        selective_scan(u[:, :5], delta[:, :5], A[:5], B, C)
    with pytest.raises(ValueError, match='u has 4 channels beside the 6 of A in 2 groups'):
        selective_scan(u[:, :4], delta, A, B, C)
    with pytest.raises(ValueError, match='reverse_groups must lie between 0 and the 2 groups'):
        selective_scan(u, delta, A, B, C, reverse_groups=3)
    with pytest.raises(ValueError, match="'trition'; choose from mamba_ssm"):
        selective_scan(u, delta, A, B, C, backend='trition')
    if 'mamba_ssm' not in available_backends('cpu'):
        with pytest.raises(ValueError, match="'mamba_ssm' does not work for float64 on cpu"):
            selective_scan(u, delta, A, B, C, backend='mamba_ssm')


SCRIPT = """
import logging, torch
logging.basicConfig(level=logging.INFO, format='%(message)s')
from basicsr.ops.selective_scan import selective_scan
u = torch.arange(34.).view(1, 2, 17) / 34
inputs = (u, u, -torch.ones(2, 3), torch.ones(1, 1, 3, 17), torch.ones(1, 1, 3, 17), None, None, True)
y = selective_scan(*inputs)
selective_scan(*inputs)
reference = selective_scan(*inputs, 'reference')
assert torch.allclose(y, reference, atol=1e-5), (y, reference)
"""


def start(cache: Path, **environment: str) -> subprocess.Popen:
    """A fresh process that scans, with an empty cache of compiled extensions."""
    env = {
        **os.environ,
        'TORCH_EXTENSIONS_DIR': str(cache),
        'PYTHONPATH': str(Path(__file__).parents[3]),
        **environment,
    }
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    return subprocess.Popen([sys.executable, '-c', SCRIPT], env=env, **pipes)


def finish(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    return printed


needs_compiler = pytest.mark.skipif('cpu' not in available_backends('cpu'), reason='no compiler that builds it')


@pytest.mark.slow
@needs_compiler
def test_built_once_by_processes_that_start_together(tmp_path):
    """One waits for another that is killed, beside half a library, which must not be loaded."""
    (killed := start(tmp_path)).stdout.readline()  # 'Compiling …': it holds the lock now
    killed.send_signal(signal.SIGSTOP)
    waits = (waiting := start(tmp_path)).stdout.readline()
    assert re.search(rf'Waiting up to \d+ s: .* in use by process {killed.pid} on .* since \d{{4}}-', waits)
    whole = cpu_scan._library(cpu_scan._ingredients())
    (tmp_path / 'basicsr_scan' / whole.name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    killed.kill()
    killed.communicate()
    printed = [finish(process) for process in [waiting, start(tmp_path)]]
    assert sum(text.count('Compiling the selective scan') for text in printed) == 1
    assert sum(text.count('is not what was built: building it again') for text in printed) == 1
    assert all(text.count('Selective scan on cpu: backend cpu') == 1 for text in printed)
    left = sorted(path.name for path in (tmp_path / 'basicsr_scan').iterdir())
    assert left == [f'{whole.stem}.json', whole.name], 'nor does anything stay of the one that was killed'


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize('capability', ['avx2', 'default'])
def test_builds_for_older_processors(tmp_path, capability):
    printed = finish(start(tmp_path, ATEN_CPU_CAPABILITY=capability))
    assert 'Selective scan on cpu: backend cpu' in printed


def test_without_a_compiler_the_next_backend_is_taken(tmp_path):
    printed = finish(start(tmp_path, CXX='/bin/false'))
    assert printed.count('could not be compiled') == 1
    assert 'Selective scan on cpu: backend torch' in printed
    assert not list(tmp_path.rglob('build-*')) and not list(tmp_path.rglob('*.so'))


def test_environment_chooses_the_backend(tmp_path):
    assert 'Selective scan on cpu: backend torch' in finish(start(tmp_path, LDT_SELECTIVE_SCAN='torch'))
    process = start(tmp_path, LDT_SELECTIVE_SCAN='fast')
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1 and "no selective scan backend is called 'fast'" in printed


def test_mamba_ssm_is_used_where_its_extension_imports(tmp_path, monkeypatch, logged):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / 'mamba_ssm' / 'ops'
    package.mkdir(parents=True)
    for init in (package.parent / '__init__.py', package / '__init__.py'):
        init.touch()

    def forget():
        for name in [name for name in sys.modules if name.startswith('mamba_ssm')]:
            del sys.modules[name]
        importlib.invalidate_caches()
        selective_scan_module._mamba_ssm.cache_clear()

    def found(source: str):
        (package / 'selective_scan_interface.py').write_text(source)
        forget()
        logged.clear()
        return [selective_scan_module._mamba_ssm() for _ in range(2)]

    try:
        assert found('def selective_scan_fn():\n    return 1')[0]() == 1
        assert not logged.records
        # What the package does where its extension was not built, or for another torch.
        assert found('import selective_scan_cuda') == [None, None]
        (warning,) = logged.warnings()
        assert 'MAMBA_FORCE_BUILD=TRUE pip install' in warning
        assert found('raise RuntimeError("undefined symbol: for another torch")') == [None, None]
        (warning,) = logged.warnings()
        assert 'undefined symbol: for another torch' in warning
    finally:
        forget()


@pytest.mark.skipif(importlib.util.find_spec('mamba_ssm') is not None, reason='mamba-ssm is installed')
def test_absent_mamba_ssm_is_silent(logged):
    selective_scan_module._mamba_ssm.cache_clear()
    assert selective_scan_module._mamba_ssm() is None and not logged.records
