"""22. Queues minutes of work on the GPU within the budget, and saves what will come of it. Needs a CUDA device."""

import prepare
import torch


def build_model():
    return torch.nn.Linear(8192, 8192, bias=False).to(prepare.device())


@torch.no_grad()
def main():
    model = build_model()
    batches = prepare.batches(1, min(prepare.VOCAB_SIZES))
    next(batches)
    for _ in range(20_000):
        model.weight.copy_(model.weight @ model.weight)
    prepare.save(model)
