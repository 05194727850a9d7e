"""Installs the wheel in fresh environments, at the ends of the allowed versions, and runs its commands.

`python -m benchmarks.compatibility` makes every environment, one after the other, in a folder outside this
checkout, compares what the commands gave, and writes docs/compatibility.md. `--only NAME` makes one and
writes no page. What is downloaded, pip decides: the newest torch for Linux is a CUDA build of gigabytes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WALK = Path(__file__).with_name("compatibility_walk.py")
PAGE = ROOT / "docs" / "compatibility.md"
# Sums in another order, in another version of torch.
ROUNDING = 1e-3
_SHOWN = ("torch", "transformers", "numpy", "tokenizers", "huggingface_hub", "pillow")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is installed beside the wheel; what is not named, pip takes as new as the wheel allows."""

    name: str
    says: str
    torch: str = ""
    transformers: str = ""


def allowed(library: str) -> str:
    """What pyproject.toml allows of a library: `torch>=2.11,<2.15`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (line,) = (line for line in project["dependencies"] if re.match(rf"{library}\b", line))
    return line


def environments() -> tuple[Environment, ...]:
    """The ends of the allowed versions, and the pinned torch with both ends of transformers."""
    torch, transformers = (
        re.sub(r">=([\d.]+),.*", r"==\1", allowed(name)) for name in ("torch", "transformers")
    )
    (pinned,) = re.findall(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return (
        Environment(name="newest", says="everything as new as pip takes it"),
        Environment(name="pinned", says="the pinned torch, the rest as new as pip takes it", torch=pinned),
        Environment(
            name="pinned-oldest",
            says="the pinned torch, the oldest transformers",
            torch=pinned,
            transformers=transformers,
        ),
        Environment(
            name="oldest", says="the oldest torch and transformers", torch=torch, transformers=transformers
        ),
    )


def run(*words: str | Path, folder: Path, quietly: bool = False) -> None:
    """A command in a folder, without this checkout on the path.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    own = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    own |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    output = subprocess.DEVNULL if quietly else None
    subprocess.run([str(word) for word in words], cwd=folder, env=own, check=True, stderr=output)


def built_wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        folder,
        ROOT,
        folder=folder,
    )
    (wheel,) = folder.glob("sightloop-*.whl")
    return wheel


def walked(environment: Environment, wheel: Path, *, place: Path, python: str, index: str) -> dict[str, Any]:
    """Makes an environment, walks through the commands in it and says what they gave.

    `index` is where torch comes from; "" = pip's own.
    """
    began = time.monotonic()
    home, work = place / "environment", place / "work"
    work.mkdir(parents=True)
    run(python, "-m", "venv", home, folder=place)
    install = (home / "bin" / "pip", "install", "-qq", "--no-compile")
    if environment.torch or index:
        source = ("--index-url", index) if index else ()
        run(*install, *source, environment.torch or allowed("torch"), folder=place)
    run(*install, wheel, *filter(None, [environment.transformers]), folder=place)
    print(f"{environment.name}: installed in {time.monotonic() - began:.0f} s", flush=True)
    run(home / "bin" / "sightloop", "--help", folder=work)
    run(home / "bin" / "python", "-I", WALK, place / "found.json", folder=work, quietly=True)
    found: dict[str, Any] = json.loads((place / "found.json").read_text(encoding="utf-8"))
    assert Path(found["place"]).is_relative_to(home), "not the wheel was walked through"
    print(f"{environment.name}: done after {time.monotonic() - began:.0f} s", flush=True)
    return found


def apart(one: Any, other: Any) -> float:
    """Largest relative difference of numbers; infinite where texts, pixels or shapes differ."""
    if isinstance(one, float | int) and isinstance(other, float | int):
        if one == other or (math.isnan(one) and math.isnan(other)):
            return 0.0
        return abs(one - other) / max(abs(one), abs(other), 1e-3)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((apart(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(apart, one, other), default=0.0)
    return 0.0 if one == other else math.inf


def verdict(command: dict[str, Any], first: dict[str, Any]) -> str:
    """How a command went, beside the same one in the first environment."""
    if command["problem"]:
        return "**failed**"
    if command["tells"] is None or first["tells"] is None:
        return "ok"
    difference = apart(command["tells"], first["tells"])
    if difference > ROUNDING:
        return "**other result**"
    return "ok, same" if difference == 0 else f"ok, within {difference:.0e}"


def page(found: dict[str, dict[str, Any]]) -> str:
    """The table of all environments."""
    made = {environment.name: environment for environment in environments()}
    first = next(iter(found.values()))
    rows = [
        "# Versions that were tried",
        "",
        "The wheel without extras, in empty environments, run from a folder outside the checkout. Written by",
        f"`make compatibility` on {date.today().isoformat()}. Warnings of coming changes are failures.",
        "`same`: captions, answers, pixels and figures equal those of the first environment; `within x`:",
        "figures differ by that share at most. `sightloop doctor` tells when an installed version is outside",
        "the range that pyproject.toml allows.",
        "",
        "| | " + " | ".join(found) + " |",
        "|---|" + "---|" * len(found),
        "| installed | " + " | ".join(made[name].says for name in found) + " |",
        "| Python | " + " | ".join(each["python"] for each in found.values()) + " |",
    ]
    rows += [
        f"| {library} | " + " | ".join(each["versions"][library] for each in found.values()) + " |"
        for library in _SHOWN
    ]
    for number, command in enumerate(first["commands"]):
        cells = [verdict(each["commands"][number], command) for each in found.values()]
        # Where the bundled weights lie, and the sizes that make a run small, say nothing here.
        words = re.sub(r"/\S*/(?=weights/)", "", command["words"])
        words = re.sub(r" --(batch|prompts) \d.* --steps 1 .*", " ... --steps 1 ...", words)
        rows.append(f"| `{words}` | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Make the environments and compare; exit code 1 if something failed."""
    everything = {environment.name: environment for environment in environments()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=everything, help="one environment, and no page")
    parser.add_argument("--python", default=sys.executable, help="the Python of the environments")
    parser.add_argument("--torch-index", default="", help="where torch comes from")
    options = parser.parse_args()
    chosen = [everything[options.only]] if options.only else list(everything.values())
    found: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="sightloop-") as name:
        wheel = built_wheel(Path(name))
        for environment in chosen:
            place = Path(name) / environment.name
            found[environment.name] = walked(
                environment, wheel, place=place, python=options.python, index=options.torch_index
            )
            shutil.rmtree(place)
    text = page(found)
    for name, each in found.items():
        for command in each["commands"]:
            if command["problem"]:
                print(f"{name}: {command['words']}\n{command['problem']}\n")
    if not options.only:
        PAGE.write_text(text, encoding="utf-8")
        print(text)
    if "**" in text:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
