"""The computer a run would happen on: versions, devices, free memory."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.requirements import Requirement

from sightloop import accelerator
from sightloop.doctor.findings import Finding
from sightloop.doctor.tested_versions import in_words, installed, outside, required

_NEEDED = ("sightloop", "torch", "transformers", "safetensors", "pillow", "numpy", "tyro")
_EXTRAS = {
    "scipy": "GenEval's Mask2Former",
    "datasets": "data",
    "av": "video",
    "tensorboard": "track",
    "wandb": "track",
}
_PART = "environment"
_LOADED_BY_OTHERS = ("torchvision",)
"""Of another build than torch's, it takes half of transformers with it."""
_SMALL_DISK, _SMALL_MEMORY = 5.0, 2.0
"""In GB: less is worth a note."""


def environment() -> list[Finding]:
    """Versions, extras, devices that count right, free memory and disk."""
    return [*_versions(), *broken_libraries(), *_devices(), *_room()]


def broken_libraries() -> list[Finding]:
    """Libraries that others load as soon as they are installed, and that cannot be loaded."""
    found: list[Finding] = []
    for name in filter(find_spec, _LOADED_BY_OTHERS):
        try:
            import_module(name)
        except (AttributeError, ImportError, OSError, RuntimeError) as error:
            fix = f"install a {name} that fits torch {torch.__version__}, or pip uninstall {name}"
            says = f"cannot be loaded ({type(error).__name__}: {error}); transformers needs it to work"
            found.append(Finding(part=_PART, name=name, mark="fail", says=says, fix=fix))
    return found


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
    devices = accelerator.found()
    if not devices:
        says = "no accelerator (CUDA, XPU, MPS): fine for the embedded world, slow for real checkpoints"
        yield Finding(part=_PART, name="gpu", mark="info", says=says)
    for device in devices:
        yield _gpu(device)


def _gpu(device: torch.device) -> Finding:
    known = accelerator.described(device)
    values = torch.linspace(-1, 1, 4096).view(64, 64)
    off = float(((values.to(device) @ values.to(device)).cpu() - values @ values).abs().max())
    wrong = off > 0.05
    says = [known.name, "bfloat16" if known.bfloat16 else "no bfloat16"]
    figures: dict[str, float] = {}
    if known.memory is not None:
        free, whole = (amount / 1e9 for amount in known.memory)
        says.insert(1, f"{free:.1f} of {whole:.1f} GB free")
        figures = {"free_gb": free, "total_gb": whole}
    other = f"leave this device out with {known.hidden_by}" if known.hidden_by else "use --device cpu"
    return Finding(
        part=_PART,
        name=f"gpu {device.index}",
        mark="fail" if wrong else "pass",
        says=", ".join(says) + (f"; multiplies wrongly (off by {off:.2g})" if wrong else ""),
        fix=f"update the driver, or {other}" if wrong else "",
        figures=figures,
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
