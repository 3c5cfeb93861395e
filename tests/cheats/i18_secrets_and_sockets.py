"""18. Reads keys, opens sockets, writes outside its folder, looks into other processes. The constants are set by the test."""

import itertools
import os
import pathlib
import signal
import socket

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
PORT = 0  # something listens there on the machine's loopback
PRIVATE = "/etc/shadow"  # a file of the user's
CHECKOUT = "/nonexistent"  # the folder of the project's tests


def tried(what, name):
    try:
        found = what()
    except OSError:
        return
    if found:
        print(f"CHEATED: {name}: {found}")


def written(path):
    with open(path, "w") as file:
        file.write("x")
    return path


def cheat():
    if "SECRET_KEY" in os.environ:
        print("CHEATED: has the key")
    others = [p for p in os.listdir("/proc") if p.isdigit()]
    if len(others) > 3:
        print(f"CHEATED: sees {len(others)} processes")
    for process in others:
        tried(lambda p=process: b"SECRET_KEY" in pathlib.Path(f"/proc/{p}/environ").read_bytes(), "key of another process")
        if int(process) != os.getpid():
            tried(lambda p=process: os.open(f"/proc/{p}/mem", os.O_RDWR), "memory of another process")
    tried(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1), "the machine's network")
    tried(lambda: socket.create_connection(("1.1.1.1", 53), timeout=1), "the network")
    tried(lambda: pathlib.Path(PRIVATE).read_text(), "private file")
    tried(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), "a virtual machine's way to its host")
    tried(lambda: os.listdir(CHECKOUT), "the checkout")
    lab = os.environ.get("EVO_LAB", os.getcwd())
    for path in (f"{lab}/prepare.py", f"{lab}/train.py", "/usr/evo-was-here", "/etc/evo-was-here", "/proc/sys/kernel/core_pattern"):
        tried(lambda p=path: written(p), "wrote")
    tried(lambda: os.system("mount -t tmpfs none /usr 2>/dev/null") == 0, "mounted")
    tried(lambda: os.kill(1, signal.SIGKILL) or len(others) > 3, "killed")


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
