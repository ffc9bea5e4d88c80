"""BasicSR's name for `basicsr.options`: reading a command line and its option file."""

from __future__ import annotations

from basicsr.options.file import ordered_yaml, yaml_load
from basicsr.options.resolve import copy_opt_file, dict2str, parse, parse_options

__all__ = ['copy_opt_file', 'dict2str', 'ordered_yaml', 'parse', 'parse_options', 'yaml_load']
