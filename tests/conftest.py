"""What every test gets: options for folders outside the repository, fixed seeds, checked annotations."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import annotations_checked
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from benchmarks import emulated_accelerator

# Before any test module imports the package.
install_import_hook(["sightloop", "experiments"], "annotations_checked.check")
torch.set_num_threads(1)
# Before any test computes gradients.
if not emulated_accelerator.missing():
    emulated_accelerator.register()

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_ORACLES = "../shared/oracles"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Folders that tests read and the repository does not hold."""
    parser.addoption(
        "--oracles",
        metavar="DIR",
        default=str(ROOT / DEFAULT_ORACLES),
        help=f"golden outputs of the papers' own code (default: {DEFAULT_ORACLES} beside the repository)",
    )
    parser.addoption(
        "--weights", metavar="DIR", default=None, help="folder of real checkpoints, one folder each"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def oracles(request: pytest.FixtureRequest) -> Path:
    """The folder of golden outputs; skips where it is missing, fails there if SIGHTLOOP_REQUIRE_ORACLES=1."""
    folder = Path(str(request.config.getoption("--oracles")))
    if not folder.is_dir():
        reason = f"no golden outputs at {folder}; give their folder with --oracles DIR"
        if os.environ.get("SIGHTLOOP_REQUIRE_ORACLES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest) -> Path:
    """The folder of real checkpoints; skips where none is given."""
    given = str(request.config.getoption("--weights"))
    if not given:
        pytest.skip("no real checkpoints; give their folder with --weights DIR")
    if not Path(given).is_dir():
        pytest.fail(f"--weights {given} is not a folder")
    return Path(given)


@pytest.fixture
def emulated() -> Iterator[torch.device]:
    """A device that is not the CPU and raises where a GPU would; skips where torch cannot have it."""
    if reason := emulated_accelerator.missing():
        pytest.skip(reason)
    with emulated_accelerator.switched_on() as device:
        yield device


@pytest.fixture(autouse=True)
def annotations_checked_anew() -> None:
    """The first calls of every function are checked in every test."""
    annotations_checked.begin_test()


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """The same random numbers in every test, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def families_as_the_library_has_them() -> Iterator[None]:
    """Rows that a test adds to the table of model families are gone after it."""
    from sightloop.models.families import FAMILIES

    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)
