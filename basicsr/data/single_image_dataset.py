"""Low-quality pictures without ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from basicsr.data.contract import accepts_opt
from basicsr.data.data_util import read_image
from basicsr.data.folders import (
    IOBackend,
    Paths,
    find_pictures,
    folder_mistakes,
    io_backend_options,
    make_file_client,
)
from basicsr.data.pictures import Deviations, Means, picture_mistakes
from basicsr.data.tasks import GREY_TASKS, Task
from basicsr.utils.color_util import bgr2ycbcr
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
@accepts_opt
class SingleImageDataset(Dataset):
    """The pictures of a folder.

    Items are dictionaries: lq (c, h, w), float32, RGB, Y or grey in [0, 1] before normalisation; lq_path.

    BasicSR's call `SingleImageDataset(opt)`, with a section of the options, works as well.

    Args:
        dataroot_lq: Folder of the pictures, or several; with io_backend lmdb, LMDBs.
        meta_info_file: Text file that names the pictures to use, one per line; default: all. With several folders, one
            file for each, or a single one whose names are looked up in all of them.
        meta_info: Another name for meta_info_file.
        color: y reads the luma channel alone.
        mean: Subtracted from each channel; needs std.
        std: Divides each channel; needs mean.
        io_backend: How files are read.
        task: denoising_gray and CAR read one grey channel.

    Raises:
        FileNotFoundError: The folder or a file is missing.
        ImportError: The package lmdb is needed but not installed.
        ValueError: An option is wrong.
    """

    def __init__(
        self,
        dataroot_lq: Paths,
        *,
        meta_info_file: Paths | None = None,
        meta_info: Paths | None = None,
        color: Literal['y', 'rgb'] = 'rgb',
        mean: Means | None = None,
        std: Deviations | None = None,
        io_backend: IOBackend | None = None,
        task: Task = 'SR',
    ) -> None:
        self.lq_folder, self.mean, self.std = dataroot_lq, mean, std
        self.color, self.task = color, task
        self.io_backend_opt = io_backend_options(io_backend, {'lq': dataroot_lq})
        lmdb = self.io_backend_opt['type'] == 'lmdb'
        self.paths = find_pictures(dataroot_lq, 'dataroot_lq', meta_info_file or meta_info, lmdb)
        self.file_client = make_file_client(self.io_backend_opt)

    @staticmethod
    def check_options(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Mistakes that involve more than one argument, as (argument, message)."""
        yield from folder_mistakes(given, ['dataroot_lq'])
        yield from picture_mistakes(given)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        lq = read_image(self.file_client, self.paths[index], 'dataroot_lq', self.task in GREY_TASKS)
        if self.color == 'y':
            lq = bgr2ycbcr(lq, y_only=True)[..., None]
        lq = img2tensor(lq)
        if self.mean is not None:
            lq = normalize(lq, self.mean, self.std)
        return {'lq': lq, 'lq_path': self.paths[index]}
