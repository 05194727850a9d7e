"""The hash of a protocol: figures may be compared where their hashes are equal."""

from __future__ import annotations

import hashlib
import json

_NOT_PROTOCOL = {"hash", "warning"}


def protocol_hash(protocol: dict[str, str]) -> str:
    """A short name for exactly this protocol: figures of different hashes do not compare."""
    relevant = {name: value for name, value in protocol.items() if name not in _NOT_PROTOCOL}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:12]
