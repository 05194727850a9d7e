"""What a run is made of, kept as fingerprints: with other weights or data it would be another run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from sightloop.data.settings import IN_PYTHON
from sightloop.data.sources import FileSource, open_named_images
from sightloop.recipes.captioner_runs import as_captions, trains_captioner
from sightloop.recipes.choices import value_of
from sightloop.recipes.image_policies import world_folder
from sightloop.recipes.inputs import (
    ALLOW_CHANGED,
    IDENTITY,
    IMAGES,
    MODELS,
    RELOCATE,
    about_inputs,
    fixed_part,
    inputs_of,
    is_of_policy,
    moved,
    parts_of,
    paths_of,
    with_paths,
)
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.vlrm.build import base_model, shapes_world
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.rewards.user_functions import names_function
from sightloop.storage.files import object_or_empty, write_run_json
from sightloop.storage.fingerprints import (
    fingerprint_of_files,
    fingerprint_of_model,
    fingerprint_of_module,
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def write_identity(config: Any, run: Path) -> None:
    """Note what the run is made of; all was loaded before, so that models of the hub are here."""
    known = object_or_empty(run / IDENTITY)
    filled = _filled(config, run)
    named = inputs_of(filled)
    found = {setting: _fingerprint(filled, run, setting, name) for setting, name in named.items()}
    about = {
        "directory": known.get("directory", os.getcwd()),
        "paths": paths_of(inputs_of(config)),
        "fingerprints": {setting: made for setting, made in found.items() if made},
    }
    write_run_json(run / IDENTITY, about)


def require_same_policy(config: Any, run: Path) -> None:
    """Refuse to put what a run has learned on other weights than it started from.

    Raises:
        ValueError: as `require_same_inputs`.
    """
    require_same_inputs(config, run, of=is_of_policy)


def require_same_inputs(config: Any, run: Path, *, of: Callable[[str], bool] = bool) -> None:
    """Compare what the run was made of with what is there now; runs of the last release did not note it.

    Raises:
        ValueError: something is missing, or another thing now and that is not asked for; it is named.
    """
    identity = object_or_empty(run / IDENTITY)
    fingerprints, paths = identity.get("fingerprints"), identity.get("paths")
    if not isinstance(fingerprints, dict) or not isinstance(paths, dict):
        return
    filled = _filled(config, run)
    named = {setting: name for setting, name in inputs_of(filled).items() if of(setting)}
    for setting in named.keys() & paths.keys():
        for path in parts_of(setting, with_paths(setting, str(paths[setting]), moved)):
            if not os.path.exists(fixed_part(path)):
                raise ValueError(
                    f"{run} is made of {setting} {path!r}, which is not there; say where it is now with "
                    f"{RELOCATE} {fixed_part(path)}=NEW"
                )
    if about_inputs().allow_changed:
        return
    for setting, name in named.items():
        found = _fingerprint(filled, run, setting, name)
        if found and setting in fingerprints and found != fingerprints[setting]:
            raise ValueError(
                f"{setting} of {run} is another than when the run started: files of {name!r} have other "
                f"names, sizes or contents; put them back, or go on all the same with {ALLOW_CHANGED}"
            )


def _filled(config: Any, run: Path) -> Any:
    """The configuration with the embedded world's models and images where none are named."""
    if isinstance(config, VlrmConfig):
        world = config if config.data.images else shapes_world(config, run)
        return replace(world, policy=base_model(config))
    if trains_captioner(config):
        return replace(config, policy=as_captions(config).policy)
    generator: UniConfig = config
    return (
        generator if generator.policy else replace(generator, policy=str(world_folder(generator.world_model)))
    )


def _fingerprint(filled: Any, run: Path, setting: str, name: str) -> str:
    """Of what a setting names; "" where there is nothing to compare."""
    if name.startswith(IN_PYTHON):
        return ""
    if setting in IMAGES:
        settings = value_of(filled, setting.partition(".")[0])
        if Path(name).is_relative_to(run) and not Path(name).exists():
            # Scenes of the run itself are drawn again.
            return ""
        source = open_named_images(settings)
        files = source.paths if isinstance(source, FileSource) else source.shards
        listed = [name] if name.endswith(".json") else []
        return fingerprint_of_files([*listed, *files])
    found: list[str] = []
    for part in re.split(r"[:=+]", name) if setting not in MODELS else [name]:
        place = Path(part).expanduser()
        if place.is_dir() and not (setting in MODELS or ":" in name):
            below = sorted(str(path) for path in place.rglob("*") if path.is_file())
            found.append("" if setting.endswith("image_root") else fingerprint_of_files(below))
        elif part and place.exists():
            found.append(fingerprint_of_model(place))
        elif _HUB_NAME.fullmatch(part):
            cached = try_to_load_from_cache(part, "config.json")
            found.append(Path(cached).parent.name if isinstance(cached, str) else "")
    function = name.rpartition("=")[0] or name
    if names_function(function):
        module = function.rpartition(":")[0].rpartition(":")[2]
        # The files of rewards are among the parts above.
        if setting in MODELS or not module.endswith(".py"):
            found.append(fingerprint_of_module(os.path.expanduser(module)))
    return " ".join(one for one in found if one)
