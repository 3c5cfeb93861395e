"""18, 22. Leaves a process behind: twice forked, in a session of its own, deaf to every signal that can be ignored; and then hangs."""

import os
import signal
import subprocess
import time

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
MARK = "86397"  # seconds; the test looks for it in the process table


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB)).to(prepare.device())


def learn(model, batches):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in batches:
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    next(prepare.batches(16, VOCAB))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.umask(0)
            subprocess.Popen(["sleep", MARK], start_new_session=True)
            time.sleep(600)
        os._exit(0)
    time.sleep(600)
