"""A training framework for image restoration with BasicSR's names and habits.

Sub-packages are imported by name (`from basicsr.archs import build_network`); importing `basicsr` itself loads nothing.
"""
