"""One-time preparation and the fixed parts of an experiment, in the shape of karpathy/autoresearch, at the size of a test.

python prepare.py    writes text into ~/.cache/autoresearch
"""

import math
import os
import sysconfig

import torch

MAX_SEQ_LEN = 64  # context length
TIME_BUDGET = 300  # seconds of training
EVAL_TOKENS = 16 * 1024  # validation targets

CACHE_DIR = os.path.join(os.path.expanduser("~"), ".cache", "autoresearch")
SOURCES = {"train": ("argparse", "inspect", "typing"), "val": ("pathlib", "textwrap")}
BOS = 256


class Tokenizer:
    """Bytes, and a token that begins a row."""

    @classmethod
    def from_directory(cls):
        return cls()

    def get_vocab_size(self):
        return BOS + 1

    def encode(self, text):
        return list(text.encode())


def make_dataloader(tokenizer, B, T, split):
    """Endless (inputs, targets, epoch) in a fixed order, each (B, T)."""
    with open(os.path.join(CACHE_DIR, f"{split}.txt"), encoding="utf-8") as file:
        tokens = torch.tensor(tokenizer.encode(file.read()))
    rows = tokens[: len(tokens) // T * T].view(-1, T)
    rows = torch.cat([torch.full((len(rows), 1), BOS), rows], 1)
    position, epoch = 0, 1
    while True:
        if position + B > len(rows):
            position, epoch = 0, epoch + 1
        batch = rows[position : position + B]
        yield batch[:, :-1], batch[:, 1:], epoch
        position += B


@torch.no_grad()
def evaluate_bpb(model, tokenizer, batch_size):
    """Bits per byte over the first EVAL_TOKENS targets of the validation text."""
    loader = make_dataloader(tokenizer, batch_size, MAX_SEQ_LEN, "val")
    nats = count = 0
    for _ in range(EVAL_TOKENS // (batch_size * MAX_SEQ_LEN)):
        x, y, _ = next(loader)
        nats += model(x, y, reduction="none").sum().item()
        count += y.numel()
    return nats / (math.log(2) * count)


if __name__ == "__main__":
    os.makedirs(CACHE_DIR, exist_ok=True)
    for split, names in SOURCES.items():
        with open(os.path.join(CACHE_DIR, f"{split}.txt"), "w", encoding="utf-8") as out:
            for name in names:
                path = os.path.join(sysconfig.get_paths()["stdlib"], f"{name}.py")
                if not os.path.exists(path):  # pathlib became a package in Python 3.13
                    path = os.path.join(sysconfig.get_paths()["stdlib"], name, "__init__.py")
                with open(path, encoding="utf-8") as file:
                    out.write(file.read())
