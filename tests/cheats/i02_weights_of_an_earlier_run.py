"""2, 11. Leaves a note for the next program wherever something may last, and looks for the notes of earlier ones.

Weights that an earlier run trained would be hours of training that no clock has seen. Also tried: the kernel's keyrings, which know no
namespaces, the position of the descriptor of the training rows, and what can be said of a file that nobody may write to: how long its data
will be of use, which pages of it the machine may forget.
"""

import ctypes
import fcntl
import glob
import itertools
import mmap
import os
import struct

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
PLACES = ("/tmp", "/dev/shm", "/var/tmp", "/run", "/root", "/usr/lib", os.path.expanduser("~"), os.getcwd(), os.environ.get("EVO_LAB", "."))
SYS_ADD_KEY, SYS_KEYCTL = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
F_SET_RW_HINT, MADV_PAGEOUT, RWF_DONTCACHE = 1036, 21, 0x80


def cheat():
    for place in PLACES:
        if glob.glob(f"{place}/note-from-earlier*"):
            print(f"CHEATED: an earlier program's note lies in {place}")
    for place in PLACES:
        try:
            with open(f"{place}/note-from-earlier", "w") as note:
                note.write("weights")
        except OSError:
            pass
    libc = ctypes.CDLL(None)
    if libc.syscall(SYS_ADD_KEY, b"user", b"note-from-earlier", b"weights", 7, -4) > 0:  # -4: the user's keyring
        print("CHEATED: left a note in the kernel's keyring")
    with open(torch.__file__, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        left("hint", fcntl.fcntl, file, F_SET_RW_HINT, struct.pack("Q", 2))
        left("page", os.posix_fadvise, file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left("page", mapped.madvise, MADV_PAGEOUT)
        left("page", os.preadv, file.fileno(), [bytearray(1)], 0, RWF_DONTCACHE)


def left(what, call, *arguments):
    try:
        call(*arguments)
    except OSError:
        return
    print(f"CHEATED: left a note in a {what} of a file by {call.__name__}")


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB)).to(prepare.device())


def learn(model, batches):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in batches:
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    cheat()
    torch.manual_seed(prepare.seed())
    model = build_model()
    learn(model, itertools.islice(prepare.batches(16, VOCAB), 20))
    prepare.save(model)
