"""Train the demo model on CPU for a fixed wall-clock budget, with resumable checkpoints.

The learning rate follows elapsed training time, not steps: it is constant, then falls linearly to zero at the end of
the budget, however fast the machine is. Creating the file WORK/stop brings the end forward to a few minutes from now.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tools.demo_model.dataset import Rows
from tools.demo_model.network import Network, NetworkConfig
from tools.demo_model.tokenizer import VOCAB_SIZE

BATCH_TOKENS = 4096
SHORT_ROW, LONG_ROW = (
    512,
    2048,
)  # tokens; most of the budget on short rows, which are faster, the rest on long ones
LONG_FROM, DECAY_SHARE = 0.7, 0.45  # shares of the budget
WARMUP_STEPS = 60
STOP_SECONDS = 240.0
MATRIX_RATE, OTHER_RATE, WEIGHT_DECAY = 3e-3, 3e-3, 0.05
CHECKPOINT_SECONDS, EVALUATE_SECONDS = 180.0, 600.0


@dataclass
class Schedule:
    """Learning-rate factor over elapsed seconds of training."""

    deadline: float
    decay_seconds: float

    def factor(self, elapsed: float, step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / WARMUP_STEPS, (self.deadline - elapsed) / self.decay_seconds))

    def stop_early(self, elapsed: float) -> None:
        """Bring the deadline forward and decay from the present rate."""
        remaining = min(STOP_SECONDS, self.deadline - elapsed)
        if self.deadline > elapsed + remaining:
            self.decay_seconds = remaining / max(self.factor(elapsed, WARMUP_STEPS), 1e-3)
            self.deadline = elapsed + remaining


def make_optimizers(network: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, gates and norms."""
    matrices = [p for n, p in network.named_parameters() if n.endswith("_proj.weight")]
    others = [p for n, p in network.named_parameters() if not n.endswith("_proj.weight")]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def computes_in_bf16() -> bool:
    """Whether matrix products are faster in bfloat16 here: where the processor has them; elsewhere they are slower."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16", False) or found.get("avx512_bf16", False))


def training_step(
    network: Network,
    optimizers: list[torch.optim.Optimizer],
    loss_of: Callable[[Tensor], Tensor],
    ids: Tensor,
    factor: float,
    bf16: bool,
) -> Tensor:
    """One update from rows [N, T + 1] at `factor` times the learning rates; returns the loss before it, a scalar."""
    for optimizer, rate in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = loss_of(ids)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.detach()


def cut_rows(tokens: np.ndarray, length: int, every: int = 1) -> Tensor:
    """Rows of a token stream side by side, of which each `every`-th is kept: [N] -> ids [rows, length + 1] int64."""
    starts = range(0, len(tokens) - length, length * every)
    return torch.from_numpy(np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int64))


@torch.no_grad()
def mean_loss(network: Network, rows: Tensor, num_loops: int, bf16: bool) -> float:
    """Mean next-token cross entropy in nats over rows [N, T + 1], with the weights cut to `num_loops` loops."""
    total = 0.0
    for ids in rows.split(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(ids[:, :-1], num_loops)
        total += cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum").item()
    return total / rows[:, 1:].numel()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the file and rename, so that a reader never sees half a checkpoint."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(work: Path, minutes: float, threads: int, compiled: bool) -> None:
    """Train until the budget is used, resuming from WORK/checkpoint.pt where there is one."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    bf16 = computes_in_bf16()
    config = NetworkConfig(vocab_size=VOCAB_SIZE)
    network = Network(config)
    optimizers = make_optimizers(network)
    loss_of = torch.compile(network.loss, dynamic=False) if compiled else network.loss
    rows = Rows(work / "train.npy")
    probe = cut_rows(np.load(work / "held_out.npy"), SHORT_ROW, every=10)  # spread over all held-out files
    schedule = Schedule(minutes * 60, minutes * 60 * DECAY_SHARE)
    step, position, elapsed = 0, 0, 0.0
    history: list[dict[str, float]] = []
    path = work / "checkpoint.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["network"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, position, elapsed, history = (
            saved["step"],
            saved["position"],
            saved["elapsed"],
            saved["history"],
        )

    def checkpoint() -> None:
        save_checkpoint(
            path,
            {
                "config": asdict(config),
                "network": network.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "position": position,
                "elapsed": elapsed,
                "history": history,
                "settings": {"threads": threads, "bf16": bf16, "compiled": compiled, "minutes": minutes},
            },
        )

    def evaluate() -> None:
        entry: dict[str, float] = {"step": step, "tokens": position, "seconds": round(elapsed, 1)}
        for name, loops in (("r2", config.plt_num_loops), ("r1_cut", 1)):
            entry[name] = round(mean_loss(network, probe, loops, bf16), 4)
        history.append(entry)
        print(json.dumps({"held_out": entry}), flush=True)

    last_checkpoint = last_evaluation = last_line = elapsed
    losses: list[Tensor] = []
    tick = time.monotonic()
    while elapsed < schedule.deadline:
        if (work / "stop").exists():
            schedule.stop_early(elapsed)
        length = LONG_ROW if elapsed >= LONG_FROM * schedule.deadline else SHORT_ROW
        factor = schedule.factor(elapsed, step)
        ids = rows.batch(position, BATCH_TOKENS // length, length)
        loss = training_step(network, optimizers, loss_of, ids, factor, bf16)
        losses.append(loss)
        step, position = step + 1, position + BATCH_TOKENS
        now = time.monotonic()
        elapsed, tick = elapsed + now - tick, now
        if elapsed - last_line >= 20:
            speed = len(losses) * BATCH_TOKENS / (elapsed - last_line)
            mean = torch.stack(losses).mean().item()
            print(
                f"{elapsed:7.0f}s step {step} tokens {position:,} loss {mean:.4f} rate ×{factor:.3f} {speed:.0f}/s",
                flush=True,
            )
            losses, last_line = [], elapsed
        if elapsed - last_evaluation >= EVALUATE_SECONDS:
            evaluate()
            last_evaluation = elapsed
        if elapsed - last_checkpoint >= CHECKPOINT_SECONDS:
            checkpoint()
            last_checkpoint = elapsed
    if not history or history[-1]["step"] != step:
        evaluate()
    checkpoint()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="directory that dataset.py filled")
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile; pays off where gcc is installed"
    )
    arguments = parser.parse_args()
    train(arguments.work, arguments.minutes, arguments.threads, arguments.compile)
