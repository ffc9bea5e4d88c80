"""What a machine runs out of, told from the errors that say so, and what helps."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from basicsr.utils.misc import is_out_of_memory, told_by_worker


@dataclass(frozen=True)
class Shortage:
    """Something that a run needs and the machine does not give.

    Attributes:
        what: In a few words.
        helps: What helps.
        signs: Regular expressions, one of which is found in the error's text.
        codes: Error codes of the system that mean it.
    """

    what: str
    helps: str
    signs: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()

    def explains(self, error: BaseException) -> bool:
        text = told_by_worker(error) or str(error)
        if isinstance(error, OSError) and error.errno in self.codes:
            return True
        signs = (*self.signs, *(rf'\[Errno {code}\]' for code in self.codes))
        return isinstance(error, RuntimeError | OSError) and any(re.search(sign, text) for sign in signs)


MEMORY = Shortage(
    'out of memory',
    'a lower datasets.train.batch_size_per_gpu (with train.accumulate for the same step), a smaller '
    'datasets.train.gt_size, train.amp: bf16, network_g.use_checkpoint: true; in validation and tests a smaller '
    'val.tile_size; where it is not that of the GPU, a lower datasets.train.num_worker_per_gpu',
)
_FILES = Shortage(
    'too many open files',
    'a higher limit (`ulimit -n 65536` in the shell that starts the run), a lower datasets.train.num_worker_per_gpu',
    ('Too many open files', r'received \d+ items of ancdata'),
    (errno.EMFILE, errno.ENFILE),
)
_SHARED_MEMORY = Shortage(
    'shared memory (/dev/shm) is full, through which the workers of a data loader hand over their batches',
    'more of it (`docker run --shm-size 16g`, or `--ipc host`), a lower datasets.train.num_worker_per_gpu, or 0, which '
    'needs none',
    (r'(out of|insufficient|space left in) shared memory', 'unable to .*(shared memory|/torch_)', 'signal: Bus error'),
)
_THREADS = Shortage(
    'the system starts no more threads or processes',
    'a higher limit (`ulimit -u`, `docker run --pids-limit`), a lower datasets.train.num_worker_per_gpu, fewer runs at '
    'a time',
    ("can't start new thread",),
    (errno.EAGAIN,),
)
_WORKERS = Shortage(
    'a worker of a data loader was killed or has crashed; mostly the system kills it for lack of memory, and `dmesg` '
    'says so',
    'a lower datasets.train.num_worker_per_gpu or batch_size_per_gpu, or more memory; a crash of a library shows with '
    'num_worker_per_gpu: 0',
    ('DataLoader worker .*(is killed by signal|exited unexpectedly)', 'Pin memory thread exited unexpectedly'),
)


def shortage_of(error: BaseException) -> Shortage | None:
    """What an error, or one that caused it, tells the machine to be short of; None where it is about something else."""
    for one in _causes(error):
        if is_out_of_memory(one):
            return MEMORY
        for shortage in (_FILES, _SHARED_MEMORY, _THREADS, _WORKERS):
            if shortage.explains(one):
                return shortage
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
