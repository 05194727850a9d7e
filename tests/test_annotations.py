"""Annotations are checked at the first calls of every function in every test, and no longer after many."""

import annotations_checked
import pytest
import torch
from jaxtyping import TypeCheckError

from sightloop.algorithms.masked import masked_mean


def test_the_first_calls_of_a_test_are_checked() -> None:
    values, whole = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    other = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(TypeCheckError):
        masked_mean(values, other)
    for _ in range(annotations_checked.MAX_CALLS):
        masked_mean(values, whole)
    with pytest.raises(RuntimeError, match="size of tensor"):
        masked_mean(values, other)
    annotations_checked.begin_test()
    with pytest.raises(TypeCheckError):
        masked_mean(values, other)
