"""The Triton kernel of nats.py; importing it needs Triton."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def nats_of_rows(logits, targets, nats, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Program i: nats[i] of the `width` numbers of row i, a block of registers; NaN if one is NaN or infinity, or all are -inf."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    # volatile: read once, whatever the compiler finds cheaper
    own = tl.load(logits + row * width + column, mask=inside, other=float("-inf"), volatile=True).to(tl.float32)
    most = tl.max(own, 0)
    broken = tl.max((inside & ~(own < float("inf"))).to(tl.int32), 0) | (most == float("-inf")).to(tl.int32)  # NaN too
    at_target = tl.sum(tl.where(column == tl.load(targets + row), own, 0.0), 0)
    # in this order: added to a large `most` first, the logarithm would be rounded away, and the logits' offset be worth a score of 0
    found = tl.log(tl.sum(tl.exp(own - most), 0)) + (most - at_target)
    found = tl.where(at_target > float("-inf"), tl.minimum(found, 3.4028234663852886e38), float("inf"))  # an overflow hides nothing
    tl.store(nats + row, tl.where(broken > 0, float("nan"), found))
