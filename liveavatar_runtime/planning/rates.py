"""How fast a card does each kind of work, and how long an evaluation and a block's decoding take by that.

An evaluation is matrix products, attention, and what only moves numbers (norms, gates, rotary positions, copies); a
card that doubles one of them does not double the others. Fitted to an H100 at three sizes (384x256, 688x368, 720x400),
evaluations come out within 1 % and decoding within 8 % of what was measured (benchmarks/results/card-h100.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Operations:
    """Of matrix products and attention, and bytes that are read and written outside of them."""

    products: float
    attention: float
    moved: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Operations a second of products, attention and convolutions in half precision; `memory`: bytes a second that what
    is none of these reads and writes."""

    products: float
    attention: float
    convolutions: float
    memory: float

    def seconds(self, work: Operations) -> float:
        """Of a part of an evaluation."""
        return work.products / self.products + work.attention / self.attention + work.moved / self.memory

    def decode_seconds(self, operations: float, moved: float) -> float:
        return operations / self.convolutions + moved / self.memory

    @classmethod
    def sold(cls, peak: float, bandwidth: float) -> "Rates":
        """Of a card by its data sheet: `peak`, dense half precision with sums in fp32, operations a second;
        `bandwidth`, bytes a second of its memory. The shares of them are the H100's."""
        return cls(products=0.80 * peak, attention=0.57 * peak, convolutions=0.39 * peak, memory=0.40 * bandwidth)
