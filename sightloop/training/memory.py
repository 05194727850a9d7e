"""Out of memory, said with the phase in which it happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DRAWING, UPDATING = "samples were drawn and judged", "the weights were updated"
"""The two large phases of a step."""
_SAID_BY_ALLOCATORS = ("out of memory", "can't allocate memory", "not enough memory")


class OutOfMemoryError(Exception):
    """A phase of a step did not fit in the memory of its device."""

    def __init__(self, phase: str, step: int, cause: str) -> None:
        super().__init__(f"out of memory in step {step} while {phase}: {cause}")
        self.phase, self.step, self.cause = phase, step, cause


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator says that there is no memory left, on whichever device.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_BY_ALLOCATORS)


@contextmanager
def phase(name: str, step: int) -> Iterator[None]:
    """Say of everything inside in which phase of which step the memory ended.

    Raises:
        OutOfMemoryError: the memory ended.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The allocator's advice about itself fills a paragraph; what it could not get stands first.
        first = str(error).strip().partition("\n")[0].partition(" Of the allocated")[0]
        raise OutOfMemoryError(name, step, first or "no memory left") from error
