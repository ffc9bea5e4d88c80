"""Times every backend of the selective scan that works on this machine, in one run, and prints ratios.

    python scripts/benchmark/selective_scan.py [--shape BATCH CHANNELS LENGTH] [--state 16] [--groups 4] [--device cuda]

Yardsticks: the plain loop (`reference`), and torch.exp over as many elements as the scan has.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from basicsr.ops.selective_scan import available_backends, selective_scan
from basicsr.runs.measuring import line, machine, peak_extra_bytes, seconds


def exponentials(elements: int, device: str) -> float:
    """Seconds of torch.exp over this many elements; also printed."""
    x = torch.randn(elements, device=device)
    y = torch.empty_like(x)
    exp, spread = seconds(lambda: torch.exp(x), device)
    into, _ = seconds(lambda: torch.exp(x, out=y), device)
    print(f'torch.exp {exp * 1e3:.1f} ms (spread {spread * 1e3:.1f}); into memory in use {into * 1e3:.1f} ms')
    return exp


def measure(shape: list[int], state: int, groups: int, device: str, skip: list[str]) -> None:
    """Print a table with one row per backend and pass."""
    batch, channels, length = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(device)

    tensors = [
        normal(batch, channels, length),
        normal(batch, channels, length) - 3,
        -torch.exp(normal(channels, state)),
    ]
    tensors += [normal(batch, groups, state, length), normal(batch, groups, state, length)]
    tensors += [normal(channels), normal(channels)]
    elements = batch * channels * length * state
    print(f'\n({batch}, {channels}, {length}), state {state}, groups {groups}: {elements / 1e6:.1f} million elements')
    exp = exponentials(elements, device)
    print(
        line(['backend', 'pass', 'ms', 'spread', 'ns/element', 'extra MB', 'x torch.exp', 'times as fast as reference'])
    )
    print(line(['---'] * 8))
    reference: dict[str, float] = {}
    for backend in reversed([name for name in available_backends(device) if name not in skip]):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]

        def forward(backend: str = backend) -> torch.Tensor:
            with torch.no_grad():
                return selective_scan(*tensors, delta_softplus=True, backend=backend)

        def both(backend: str = backend, leaves: list = leaves) -> tuple:
            y = selective_scan(*leaves, delta_softplus=True, backend=backend)
            return torch.autograd.grad(y, leaves, y.detach())

        for name, run in (('forward', forward), ('forward+backward', both)):
            taken, spread = seconds(run, device)
            if backend == 'reference':
                reference[name] = taken
            gain = f'{reference[name] / taken:.1f}' if name in reference else '-'
            cells = [backend, name, f'{taken * 1e3:.1f}', f'{spread * 1e3:.1f}', f'{taken / elements * 1e9:.3f}']
            extra = peak_extra_bytes(run, device) / 1e6
            print(line([*cells, f'{extra:.0f}', f'{taken / exp:.2f}', gain]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', nargs=3, type=int, action='append', metavar=('BATCH', 'CHANNELS', 'LENGTH'))
    parser.add_argument('--state', type=int, default=16)
    parser.add_argument('--groups', type=int, default=4)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--skip', nargs='*', default=[], help='backends to leave out')
    args = parser.parse_args()
    print(machine(args.device))
    default = [[1, 1440, 2304]] if args.device == 'cpu' else [[4, 1440, 2304], [1, 1440, 40000]]
    for shape in args.shape or default:
        measure(shape, args.state, args.groups, args.device, args.skip)


if __name__ == '__main__':
    main()
