"""What a process runs on: versions, hardware, command."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sightloop import accelerator

_PACKAGES = ("sightloop", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pillow")


def run_environment(*, ranks: int) -> dict[str, Any]:
    """Versions, hardware and command of this process, one of so many."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    # Its own number also names its build.
    versions["torch"] = str(torch.__version__)
    devices = [accelerator.described(device).name for device in accelerator.found()]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": devices or [platform.processor() or platform.machine()],
        "ranks": ranks,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        # Installed somewhere: the repository around it, if any, is another one.
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
