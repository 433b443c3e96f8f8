"""Train the demo architecture with several numbers of loops on the same rows in the same order, for as many steps.

All of them take turns of a few steps, so that their losses can be compared at equal steps at any time; whoever stops
it starts it again with the same command. Unlike `train`, the learning rate follows steps, with the same shares: it is
constant, then falls linearly to zero, and long rows come at the end. Weights start from the same numbers: a later loop
only adds the gates, which start at zero.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.demo_model.dataset import Rows
from tools.demo_model.network import Network, NetworkConfig
from tools.demo_model.tokenizer import VOCAB_SIZE
from tools.demo_model.train import (
    BATCH_TOKENS,
    DECAY_SHARE,
    LONG_FROM,
    LONG_ROW,
    SHORT_ROW,
    WARMUP_STEPS,
    computes_in_bf16,
    cut_rows,
    make_optimizers,
    mean_loss,
    save_checkpoint,
    training_step,
)

LOOP_COUNTS = (1, 2, 3, 4)
STEPS = 3383
"""As many as the demo model's training had."""
TURN_STEPS = 20
MEASURE_EVERY = 100
"""Steps between two measurements on a part of the held-out text."""


def learning_rate_factor(step: int, steps: int) -> float:
    """Share of the full rate at a step, from 0: warm-up, constant, linear decay to zero over the last `DECAY_SHARE`."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (steps * DECAY_SHARE))


class Run:
    """The training of one number of loops, with its checkpoint in WORK/loops-R."""

    def __init__(self, work: Path, config: NetworkConfig, steps: int, compiled: bool) -> None:
        """Raises SystemExit if the checkpoint there belongs to another number of steps."""
        torch.manual_seed(0)
        self.config = config
        self.network = Network(config)
        self.optimizers = make_optimizers(self.network)
        self.step, self.steps, self.seconds = 0, steps, 0.0
        self.history: list[dict[str, float]] = []
        self.bf16 = computes_in_bf16()
        self.path = work / f"loops-{config.plt_num_loops}" / "checkpoint.pt"
        self._loss: Callable[[Tensor], Tensor] = (
            torch.compile(self.network.loss, dynamic=False) if compiled else self.network.loss
        )
        self.path.parent.mkdir(exist_ok=True)
        if self.path.exists():
            self._resume(torch.load(self.path, weights_only=True))

    def turn(self, rows: Rows, probe: Tensor, count: int) -> None:
        """Go on for `count` steps, or to the end, and write a checkpoint."""
        started, losses = time.monotonic(), []
        for step in range(self.step, min(self.steps, self.step + count)):
            length = LONG_ROW if step >= LONG_FROM * self.steps else SHORT_ROW
            ids = rows.batch(step * BATCH_TOKENS, BATCH_TOKENS // length, length)
            factor = learning_rate_factor(step, self.steps)
            losses.append(
                training_step(self.network, self.optimizers, self._loss, ids, factor, self.bf16).item()
            )
            self.step = step + 1
        self.seconds += time.monotonic() - started
        if self.step % MEASURE_EVERY == 0 or self.step == self.steps:
            self._measure(probe)
        self._save()
        if losses:
            speed = len(losses) * BATCH_TOKENS / (time.monotonic() - started)
            print(
                f"R = {self.config.plt_num_loops} step {self.step} loss {np.mean(losses):.4f} {speed:.0f} tokens/s",
                flush=True,
            )

    def _measure(self, probe: Tensor) -> None:
        loss = mean_loss(self.network, probe, self.config.plt_num_loops, self.bf16)
        self.history.append({"step": self.step, "held_out": round(loss, 4)})
        print(json.dumps({"loops": self.config.plt_num_loops, **self.history[-1]}), flush=True)

    def _save(self) -> None:
        state = {
            "config": asdict(self.config),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "steps": self.steps,
            "position": self.step * BATCH_TOKENS,
            "elapsed": self.seconds,
            "history": self.history,
            "settings": {"bf16": self.bf16, "threads": torch.get_num_threads()},
        }
        save_checkpoint(self.path, state)

    def _resume(self, saved: dict[str, Any]) -> None:
        if saved["steps"] != self.steps:
            raise SystemExit(
                f"{self.path} is of a run of {saved['steps']} steps, not {self.steps}: remove it"
            )
        self.network.load_state_dict(saved["network"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step, self.seconds, self.history = saved["step"], saved["elapsed"], saved["history"]


def train_all(work: Path, loop_counts: tuple[int, ...], steps: int, threads: int, compiled: bool) -> None:
    """Train all by turns until each has had its steps."""
    torch.set_num_threads(threads)
    rows = Rows(work / "train.npy")
    probe = cut_rows(np.load(work / "held_out.npy"), SHORT_ROW, every=10)
    configs = [NetworkConfig(vocab_size=VOCAB_SIZE, plt_num_loops=loops) for loops in loop_counts]
    runs = [Run(work, config, steps, compiled) for config in configs]
    while unfinished := [run for run in runs if run.step < steps]:
        behind = min(unfinished, key=lambda run: run.step)  # after a stop some are a turn ahead
        behind.turn(rows, probe, TURN_STEPS - behind.step % TURN_STEPS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="directory that dataset.py filled")
    parser.add_argument("--loops", type=int, nargs="+", default=LOOP_COUNTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile; pays off where gcc is installed"
    )
    arguments = parser.parse_args()
    train_all(arguments.work, tuple(arguments.loops), arguments.steps, arguments.threads, arguments.compile)
