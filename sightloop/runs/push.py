"""An exported folder to the hub, or what would go there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id


def require_repository(name: str) -> None:
    """Refuse a name that the hub cannot have, before anything is exported.

    Raises:
        ValueError: it is none of the form ORGANIZATION/NAME.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"--push {name!r} is no name of a repository, as in ORGANIZATION/NAME: {error}"
        ) from error
    if "/" not in name:
        raise ValueError(f"--push {name!r} names no owner; give ORGANIZATION/NAME")


def push_folder(folder: Path, name: str, *, is_private: bool) -> str:
    """Upload a folder to a repository, which is made if there is none; its address.

    Raises:
        ValueError: the hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=is_private, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=name))
    except (HfHubHTTPError, OSError) as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name} could not be pushed ({first}); log in with `hf auth login`, or later upload {folder} "
            f"with `hf upload {name} {folder}`"
        ) from error


def what_would_go(folder: Path, name: str) -> str:
    """The files that `push_folder` would upload, and the model card."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.stat().st_size / 1e6:12.1f} MB  {path.relative_to(folder)}" for path in files]
    total = sum(path.stat().st_size for path in files) / 1e9
    card = (folder / "README.md").read_text(encoding="utf-8")
    return "\n".join([f"would go to {name} ({total:.2f} GB):", *lines, "", "README.md:", card])
