"""Helpers, under the names that BasicSR gives them."""

from typing import Any

from .color_util import bgr2ycbcr, rgb2ycbcr, rgb2ycbcr_pt, ycbcr2bgr, ycbcr2rgb
from .diffjpeg import DiffJPEG
from .file_client import FileClient
from .img_process_util import USMSharp, usm_sharp
from .img_util import crop_border, imfrombytes, img2tensor, imwrite, tensor2img
from .logger import AvgTimer, MessageLogger, get_env_info, get_root_logger, init_tb_logger, init_wandb_logger
from .matlab_functions import imresize
from .misc import check_resume, get_time_str, make_exp_dirs, mkdir_and_rename, scandir, set_random_seed, sizeof_fmt

__all__ = [
    'AvgTimer',
    'DiffJPEG',
    'FileClient',
    'MessageLogger',
    'USMSharp',
    'bgr2ycbcr',
    'check_resume',
    'crop_border',
    'get_env_info',
    'get_root_logger',
    'get_time_str',
    'imfrombytes',
    'img2tensor',
    'imresize',
    'imwrite',
    'init_tb_logger',
    'init_wandb_logger',
    'make_exp_dirs',
    'mkdir_and_rename',
    'rgb2ycbcr',
    'rgb2ycbcr_pt',
    'scandir',
    'set_random_seed',
    'sizeof_fmt',
    'tensor2img',
    'usm_sharp',
    'yaml_load',
    'ycbcr2bgr',
    'ycbcr2rgb',
]


def __getattr__(name: str) -> Any:
    """`yaml_load`, on demand: `basicsr.options` itself needs this package."""
    if name == 'yaml_load':
        from .options import yaml_load

        return yaml_load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
