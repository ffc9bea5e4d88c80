"""Low-quality pictures without ground truth."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from basicsr.data.data_util import (
    check_image_options,
    find_pictures,
    make_file_client,
    read_image,
)
from basicsr.data.tasks import GREY_TASKS
from basicsr.utils.color_util import bgr2ycbcr
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class SingleImageDataset(Dataset):
    """The pictures of a folder.

    Args:
        opt: The dataset's section of the options: dataroot_lq, and optionally meta_info_file (or meta_info),
            color, mean, std and io_backend as in PairedImageDataset; task denoising_gray or CAR reads them
            as one grey channel.

    Items are dictionaries: lq (c, h, w), float32, RGB or Y in [0, 1] before normalisation; lq_path.

    Raises:
        FileNotFoundError: The folder or a file is missing.
        ValueError: An option is wrong.
    """

    def __init__(self, opt: dict) -> None:
        check_image_options(opt, ('dataroot_lq',))
        self.opt = opt
        self.paths = find_pictures(opt, 'dataroot_lq')
        self.file_client = make_file_client(opt, ['dataroot_lq'])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        lq = read_image(self.file_client, self.paths[index], 'dataroot_lq', self.opt.get('task') in GREY_TASKS)
        if self.opt.get('color') == 'y':
            lq = bgr2ycbcr(lq, y_only=True)[..., None]
        lq = img2tensor(lq)
        if self.opt.get('mean') is not None:
            lq = normalize(lq, self.opt['mean'], self.opt['std'])
        return {'lq': lq, 'lq_path': self.paths[index]}
