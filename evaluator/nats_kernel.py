"""The Triton kernel of nats.py; importing it needs Triton."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def nats_of_rows(logits, targets, nats, broken, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Program i: nats[i] of the `width` numbers of row i, a block of registers; broken[0] = 1 if not all are finite."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    # volatile: read once, whatever the compiler finds cheaper
    own = tl.load(logits + row * width + column, mask=inside, other=float("-inf"), volatile=True).to(tl.float32)
    is_broken = inside & ~(tl.abs(own) < float("inf"))  # NaN too
    if tl.max(is_broken.to(tl.int32), 0) > 0:
        tl.store(broken, 1)
    most = tl.max(own, 0)
    at_target = tl.sum(tl.where(column == tl.load(targets + row), own, 0.0), 0)
    tl.store(nats + row, tl.log(tl.sum(tl.exp(own - most), 0)) + most - at_target)
