"""Times the full MambaIR x4 (20.6 million parameters), forward and training step, against the plain scan, in one run.

python scripts/benchmark/mambair.py [--size 48] [--batch 1] [--device cuda] [--skip-reference]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from basicsr.archs.mambair_arch import MambaIR
from basicsr.ops.selective_scan import available_backends
from basicsr.runs.measuring import line, machine, peak_resident_bytes, seconds


def network(backend: str, device: str) -> MambaIR:
    torch.manual_seed(0)
    return MambaIR(
        upscale=4,
        img_size=64,
        embed_dim=180,
        depths=[6] * 6,
        d_state=16,
        mlp_ratio=2,
        upsampler='pixelshuffle',
        resi_connection='1conv',
        scan_backend=backend,
    ).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, default=48, help='side of the low-quality picture')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--skip-reference', action='store_true')
    args = parser.parse_args()
    device, backends = args.device, available_backends(args.device)
    best = backends[0]
    print(machine(device))
    print(f'MambaIR x4, {args.batch} x {args.size} x {args.size}')
    print(line(['scan', 'what', 'type', 'seconds', 'spread', 'times as fast as reference', 'peak memory GB']))
    print(line(['---'] * 7))
    lq = torch.rand(args.batch, 3, args.size, args.size, device=device)
    gt = torch.rand(args.batch, 3, 4 * args.size, 4 * args.size, device=device)

    def report(backend: str, what: str, kind: str, taken: float, spread: float, gain: float | None) -> None:
        peak = torch.cuda.max_memory_allocated() if device == 'cuda' else peak_resident_bytes()
        cells = [
            backend,
            what,
            kind,
            f'{taken:.3f}',
            f'{spread:.3f}',
            f'{gain:.1f}' if gain else '-',
            f'{peak / 1e9:.1f}',
        ]
        print(line(cells), flush=True)

    reference = None
    for backend in (best,) if args.skip_reference else ('reference', best):
        net = network(backend, device).eval()
        with torch.no_grad():
            taken, spread = seconds(lambda net=net: net(lq), device, most=3 if backend == 'reference' else 8)
        reference = taken if backend == 'reference' else reference
        report(backend, 'forward', 'float32', taken, spread, reference and reference / taken)

    net = network(best, device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step(kind: torch.dtype | None) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, kind or torch.bfloat16, enabled=kind is not None):
            loss = (net(lq) - gt).abs().mean()
        loss.backward()
        optimizer.step()

    for kind, name in ((None, 'float32'), (torch.bfloat16, 'bfloat16')):
        report(best, 'training step', name, *seconds(lambda kind=kind: step(kind), device, most=5), None)


if __name__ == '__main__':
    main()
