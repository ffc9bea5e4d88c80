"""Time, memory and the machine's name, for benchmarks."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds that `run` takes."""
    if device == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds(run: Callable[[], object], device: str, budget: float = 4.0, most: int = 15) -> tuple[float, float]:
    """(median, spread) of the time of `run`: after one warm-up call, it is called until `budget` seconds are spent."""
    warm = timed(run, device)
    times = [timed(run, device) for _ in range(max(2, min(most, int(budget / max(warm, 1e-6)))))]
    return statistics.median(times), max(times) - min(times)


def peak_extra_bytes(run: Callable[[], object], device: str) -> int:
    """Peak tensor memory of `run`, beyond what was allocated before."""
    if device == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    level = most = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == '[memory]']
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        most = max(most, level)
    return most


def peak_resident_bytes() -> int:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine(device: str) -> str:
    """The machine, in words."""
    if device == 'cuda':
        return f'{torch.cuda.get_device_name()}, PyTorch {torch.__version__}'
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), model)
    capability = torch.backends.cpu.get_cpu_capability()
    return f'{model}, {torch.get_num_threads()} threads of {os.cpu_count()}, {capability}, PyTorch {torch.__version__}'


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return '| ' + ' | '.join(cells) + ' |'
