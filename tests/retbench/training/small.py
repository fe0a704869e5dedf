"""Models and data that train in milliseconds; as a program, a training that a test can kill.

``small.py FOLDER``: trains, keeps checkpoints in FOLDER, prints the step of every record.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models import build
from retbench.data.batches import RandomWindows
from retbench.training.checkpointing import Checkpoints
from retbench.training.loop import TrainingConfig, train

VOCAB = 17
CONFIG = {
    "steps": 24, "batch_size": 4, "seq_len": 16, "learning_rate": 1e-2, "eval_every": 4,
    "record_every": 2,
}  # fmt: skip


class Table(nn.Module):
    """Logits by the last token alone, and a bias that must not decay."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(VOCAB, VOCAB, generator=generator))
        self.bias = nn.Parameter(torch.zeros(VOCAB))

    def forward(self, tokens):
        return self.table[tokens] + self.bias


def tokens(count=2000, seed=0):
    """A text in which each token says much about the next."""
    steps = np.random.default_rng(seed).choice([1, 3], size=count, p=[0.8, 0.2])
    return (np.cumsum(steps) % VOCAB).astype(np.uint16)


def source(seed=0, **changes):
    config = training(**changes)
    return RandomWindows(tokens(), batch_size=config.batch_size, seq_len=config.seq_len, seed=seed)


def decoder(family="retnet", dtype=torch.float32, seed=0):
    return build(
        family, preset="tiny", d_model=32, n_heads=4, vocab_size=VOCAB, dtype=dtype, seed=seed
    )


def training(**changes):
    return TrainingConfig(**CONFIG | changes)


def dev_of(model):
    """A dev loss that depends on the weights."""
    return lambda: sum(float(p.double().sum()) for p in model.parameters())


def main(folder):
    torch.set_num_threads(1)
    model = decoder()
    train(
        model,
        source(),
        training(),
        dev=dev_of(model),
        observe=lambda record: print(record.step, flush=True),
        checkpoint=Checkpoints(Path(folder), "same"),
    )


if __name__ == "__main__":
    main(sys.argv[1])
