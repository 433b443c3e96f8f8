"""Export what `loop_counts` trained, at any time, and write the table of held-out losses by number of loops.

    python -m tools.demo_model.loop_table --work WORK --page docs/results/loops/training.md

Model directories are written beside the checkpoints, as WORK/loops-R/model.
"""

from __future__ import annotations

import argparse
import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.machine import describe
from tools.demo_model.dataset import token_bytes
from tools.demo_model.export import load_shipped, read_tokenizer, write_model
from tools.demo_model.loop_counts import LOOP_COUNTS
from tools.demo_model.train import BATCH_TOKENS, SHORT_ROW, cut_rows, mean_loss

_PAGE = """# Training the demo architecture with one to four loops

    python -m tools.demo_model.dataset --work WORK
    python -m tools.demo_model.loop_counts --work WORK --steps {planned}
    python -m tools.demo_model.loop_table --work WORK --page docs/results/loops/training.md

The same architecture, first weights, rows, order and number of steps ({batch:,} tokens each); only the number of
loops R differs. {progress} One training each: what another seed would give is not known, and
differences of a few hundredths mean little. In training R loops cost about R times the arithmetic of one.

| R | steps | nats/token | bits/byte | {cuts} | training, s |
|---|---|---|---|{dashes}|---|
{rows}

Losses are on {tokens:,} held-out tokens (whole packages that neither tokenizer nor model saw), rows of {length},
weights rounded to bfloat16 as they are served, arithmetic in float32. "Cut to k" is the same weights with fewer loops
than they were trained with.

## Course

Held-out loss of a tenth of the text while training ran, at equal steps:

| steps | {heads} |
|---|{course_dashes}|
{course}

{date}, {machine}.
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """One number of loops.

    Attributes:
        checkpoint: as `loop_counts` saved it.
        losses: nats per token when cut to 1, 2, … R loops.
    """

    num_loops: int
    checkpoint: dict[str, Any]
    losses: list[float]


def page(work: Path, every: int) -> str:
    """Export all that was trained, and measure it.

    Args:
        every: measure on one held-out row in so many.

    Raises:
        FileNotFoundError: nothing was trained in `work`.
    """
    torch.set_grad_enabled(False)
    tokenizer_text = read_tokenizer(work)
    sizes = token_bytes(Tokenizer.from_str(tokenizer_text))
    rows = cut_rows(np.load(work / "held_out.npy"), SHORT_ROW, every)
    trained = []
    for num_loops in LOOP_COUNTS:
        directory = work / f"loops-{num_loops}"
        if not (directory / "checkpoint.pt").exists():
            continue
        checkpoint = torch.load(directory / "checkpoint.pt", weights_only=True)
        network = load_shipped(checkpoint)
        write_model(directory / "model", network, tokenizer_text)
        losses = [mean_loss(network, rows, loops, bf16=False) for loops in range(1, num_loops + 1)]
        trained.append(Trained(num_loops, checkpoint, losses))
    if not trained:
        raise FileNotFoundError(f"{work} holds no checkpoint of loop_counts")
    bytes_per_token = float(sizes[rows[:, 1:].numpy()].mean())
    return _text(trained, rows[:, 1:].numel(), bytes_per_token)


def _text(trained: list[Trained], tokens: int, bytes_per_token: float) -> str:
    most = max(one.num_loops for one in trained)
    planned = trained[0].checkpoint["steps"]
    done = all(one.checkpoint["step"] == planned for one in trained)
    courses = [{entry["step"]: entry["held_out"] for entry in one.checkpoint["history"]} for one in trained]
    common = sorted(set.intersection(*map(set, courses)))
    return _PAGE.format(
        planned=planned,
        batch=BATCH_TOKENS,
        progress="" if done else "**Not finished**: the learning rate has not fallen to zero yet.",
        cuts=" | ".join(f"cut to {loops}" for loops in range(1, most)),
        dashes="---|" * (most - 1),
        rows="\n".join(_row(one, most, bytes_per_token) for one in trained),
        tokens=tokens,
        length=SHORT_ROW,
        heads=" | ".join(f"R = {one.num_loops}" for one in trained),
        course_dashes="---|" * len(trained),
        course="\n".join(
            f"| {step:,} | " + " | ".join(f"{course[step]:.3f}" for course in courses) + " |"
            for step in common
        ),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=describe(),
    )


def _row(one: Trained, most: int, bytes_per_token: float) -> str:
    nats = one.losses[-1]
    cut = [f"{loss:.3f}" for loss in one.losses[:-1]]
    cells = [
        str(one.num_loops),
        f"{one.checkpoint['step']:,}",
        f"**{nats:.3f}**",
        f"{nats / math.log(2) / bytes_per_token:.3f}",
        *cut,
        *[""] * (most - 1 - len(cut)),
        f"{one.checkpoint['elapsed']:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="measure on one held-out row in so many")
    arguments = parser.parse_args()
    text = page(arguments.work, arguments.every)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(text, encoding="utf-8")
