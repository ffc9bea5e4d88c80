"""Helpers, under the names that BasicSR gives them."""

from .color_util import bgr2ycbcr, rgb2ycbcr, rgb2ycbcr_pt, ycbcr2bgr, ycbcr2rgb
from .file_client import FileClient
from .img_util import crop_border, imfrombytes, img2tensor, imwrite, tensor2img
from .logger import AvgTimer, MessageLogger, get_env_info, get_root_logger, init_tb_logger
from .matlab_functions import imresize
from .misc import get_time_str, make_exp_dirs, mkdir_and_rename, scandir, set_random_seed, sizeof_fmt

__all__ = [
    'AvgTimer',
    'FileClient',
    'MessageLogger',
    'bgr2ycbcr',
    'crop_border',
    'get_env_info',
    'get_root_logger',
    'get_time_str',
    'imfrombytes',
    'img2tensor',
    'imresize',
    'imwrite',
    'init_tb_logger',
    'make_exp_dirs',
    'mkdir_and_rename',
    'rgb2ycbcr',
    'rgb2ycbcr_pt',
    'scandir',
    'set_random_seed',
    'sizeof_fmt',
    'tensor2img',
    'ycbcr2bgr',
    'ycbcr2rgb',
]
