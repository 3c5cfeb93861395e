"""11. Writes zeros over the training rows, from which the next program would learn nothing, by every way that its descriptor gives it."""

import fcntl
import itertools
import mmap
import os

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)


def tried(what, name):
    try:
        what()
    except (OSError, ValueError, PermissionError):
        return
    print(f"CHEATED: {name}")


def overwrite(path):
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, bytes(64), 0)


def cheat_on_rows():
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if not os.path.exists(path) or not os.readlink(path).endswith("train.bin"):
            continue
        descriptor = int(name)
        tried(lambda d=descriptor: os.pwrite(d, bytes(64), 0), "wrote to the rows")
        tried(lambda p=path: overwrite(p), "opened the rows again to write")
        tried(lambda d=descriptor: os.fchmod(d, 0o777), "changed the mode of the rows")
        tried(lambda d=descriptor: os.utime(d, ns=(0, 0)), "changed the times of the rows")
        tried(lambda p=path: os.truncate(p, 0), "cut the rows")
        tried(lambda d=descriptor: mmap.mmap(d, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE), "mapped the rows to write")
        tried(lambda d=descriptor: os.setxattr(d, "user.note", b"weights"), "left a note beside the rows")
        os.lseek(descriptor, 12345, os.SEEK_SET)  # harmless, unless the next program gets the same description
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB)).to(prepare.device())


def learn(model, batches):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in batches:
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    batches = prepare.batches(16, VOCAB)
    first = next(batches)
    cheat_on_rows()
    learn(model, itertools.chain([first], itertools.islice(batches, 19)))
    prepare.save(model)
