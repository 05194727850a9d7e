"""The computer a run would happen on: versions, devices, free memory."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement

from sightloop.recipes.doctor_findings import Finding
from sightloop.recipes.tested_versions import in_words, installed, outside, required

_NEEDED = ("sightloop", "torch", "transformers", "safetensors", "pillow", "numpy", "tyro")
_EXTRAS = {
    "scipy": "GenEval's Mask2Former",
    "datasets": "data",
    "av": "video",
    "pycocoevalcap": "metrics",
    "tensorboard": "track",
    "wandb": "track",
    "gradio": "web",
}
_PART = "environment"
_SMALL_DISK, _SMALL_MEMORY = 5.0, 2.0
"""In GB: less is worth a note."""


def environment() -> list[Finding]:
    """Versions, extras, devices that count right, free memory and disk."""
    return [*_versions(), *_devices(), *_room()]


def _versions() -> Iterator[Finding]:
    # torch's own number also names its build.
    found = {name: installed(name) for name in _NEEDED} | {"torch": str(torch.__version__)}
    says = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    missing = [name for name, number in found.items() if not number and name != "sightloop"]
    yield Finding(
        part=_PART,
        name="versions",
        mark="fail" if missing else "pass",
        says=f"Python {platform.python_version()}, {says}",
        fix=f"install {' '.join(missing)} with pip" if missing else "",
    )
    yield from _untested(required())
    there = [name for name in _EXTRAS if installed(name)]
    absent = [f"{name} ({use})" for name, use in _EXTRAS.items() if name not in there]
    says = f"with {', '.join(there) or 'none'}; without {', '.join(absent) or 'none'}"
    yield Finding(part=_PART, name="extras", mark="info", says=says)


def _untested(needs: list[Requirement]) -> Iterator[Finding]:
    versions = {need.name: installed(need.name) for need in needs}
    for found, need in outside(needs, versions):
        yield Finding(
            part=_PART,
            name="untested",
            mark="warn",
            says=f"{need.name} {found}; sightloop was tested with {need.name} {in_words(need)}",
            fix=f"pip install '{need.name}{in_words(need)}'",
        )


def _devices() -> Iterator[Finding]:
    yield Finding(
        part=_PART,
        name="processor",
        mark="pass",
        says=f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
    )
    if not torch.cuda.is_available():
        says = "no CUDA device: fine for the embedded world, slow for real checkpoints"
        yield Finding(part=_PART, name="gpu", mark="info", says=says)
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)


def _gpu(number: int) -> Finding:
    device = torch.device("cuda", number)
    free, whole = (amount / 1e9 for amount in torch.cuda.mem_get_info(device))
    values = torch.linspace(-1, 1, 4096).view(64, 64)
    off = float(((values.to(device) @ values.to(device)).cpu() - values @ values).abs().max())
    half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
    wrong = off > 0.05
    return Finding(
        part=_PART,
        name=f"gpu {number}",
        mark="fail" if wrong else "pass",
        says=f"{torch.cuda.get_device_name(device)}, {free:.1f} of {whole:.1f} GB free, {half}"
        + (f"; multiplies wrongly (off by {off:.2g})" if wrong else ""),
        fix="update the driver, or leave this device out with CUDA_VISIBLE_DEVICES" if wrong else "",
        figures={"free_gb": free, "total_gb": whole},
    )


def _room() -> Iterator[Finding]:
    memory = _free_memory()
    if memory is not None:
        yield Finding(
            part=_PART,
            name="memory",
            mark="pass" if memory > _SMALL_MEMORY else "warn",
            says=f"{memory:.1f} GB free",
            fix="" if memory > _SMALL_MEMORY else "close other programs, or use a smaller --batch",
            figures={"free_gb": memory},
        )
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(
        part=_PART,
        name="disk",
        mark="pass" if disk > _SMALL_DISK else "warn",
        says=f"{disk:.1f} GB free here",
        fix="" if disk > _SMALL_DISK else "checkpoints need room; name a run folder on another disk",
        figures={"free_gb": disk},
    )


def _free_memory() -> float | None:
    """In GB; None where the system does not say."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return None
    for line in table.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1e6
    return None
