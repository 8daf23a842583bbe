"""`python -m aiinfra info`: what this machine offers."""

import argparse
import sys


def add_info(parser: argparse.ArgumentParser) -> None:
    """`info` has no arguments."""
    parser.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> None:
    """Versions, device and folders, a line each."""
    import torch

    from aiinfra import device, environment
    print(f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, {device.device_name()}")
    print(device.gpu_report())
    print(environment.calm_threads())
    print(f"models: {environment.cache_dir() / 'models'}; your progress: {environment.data_dir()}")
