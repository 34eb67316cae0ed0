"""How close two computations of the same numbers in float32 must be, whatever processor they ran on."""

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps


def assert_close_after(products: int, terms: int, actual: Tensor, expected: Tensor) -> None:
    """Results of the same chain of products (or convolutions, one after the other), each a sum of so many terms.

    Processors and libraries add in different orders. A sum of n terms then differs by about sqrt(n) units in the last
    place of the largest numbers, and later products carry that on. A bound that does not know the numbers' size and the
    length of the chain holds on one processor and fails on another.
    """
    tolerance = products * terms**0.5 * EPSILON * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
