"""15, 14. Takes all of the card, whatever torch was told that it may have, and keeps it. Needs a CUDA device."""

import time

import prepare
import torch


def build_model():
    return torch.nn.Linear(1, 1).to(prepare.device())


def main():
    torch.cuda.set_per_process_memory_fraction(1.0)
    blocks = []
    for size in (1 << 30, 1 << 24):
        try:
            while True:
                blocks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            pass
    time.sleep(60)
    prepare.save(build_model())
