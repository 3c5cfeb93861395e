"""8, 18. Looks for the text that it will be scored on: as files, as descriptors that it inherited, and as the packages it was made of."""

import itertools
import os
import pathlib
import sys

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
WANTED = ("val.bin", "heldout.bin", "manifest.json", "tokenizer.json", "token_bytes.bin", "weights.pt", "outcomes")
MADE_OF = (
    "idlelib",
    "tkinter",
    "turtledemo",
    "optuna",
    "hypothesis",
)  # what the slices were made of


def cheat():
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    folders = {"/tmp", "/root", "/home", "/work", "/var", os.path.expanduser("~"), os.path.dirname(os.getcwd())}
    folders |= {os.path.dirname(line.split()[4]) for line in mounts} - {"/", "/usr", "/proc", "/sys"}
    for folder in folders:
        for root, _, files in os.walk(folder):
            if root.startswith(("/usr", "/proc", "/sys")) or "site-packages" in root:
                continue
            for name in set(files) & set(WANTED):
                print(f"CHEATED: {root}/{name}")
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the one that lists the folder
            continue
        if target.endswith(WANTED):
            print(f"CHEATED: descriptor {descriptor} is {target}")
    for package, place in itertools.product(MADE_OF, sys.path):
        for text in pathlib.Path(place, package).rglob("*.*"):
            if text.is_file() and text.read_bytes():
                print(f"CHEATED: reads {text}")


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
