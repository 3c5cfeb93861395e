"""14. Talks so much that whoever listens needs the cores of its siblings."""

import json
import os
import socket
import struct

import prepare
import torch.nn as nn


def build_model():
    return nn.Linear(1, 1)


def main():
    next(prepare.batches(1, min(prepare.VOCAB_SIZES)))
    channel = socket.socket(fileno=os.dup(int(os.environ["EVO_CHANNEL"])))
    message = json.dumps({"op": "step", "step": 1, "tokens": 1, "loss": 0.0}).encode()
    while True:
        channel.sendall(struct.pack(">I", len(message)) + message)
