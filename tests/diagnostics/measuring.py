"""Random checkpoints through the real pipeline, and the same quantities from the oracle in plain numpy."""

from functools import cache
from typing import Any

import numpy as np

from diagnostics.capture import DocumentRunner
from diagnostics.diagnose import engine_options
from diagnostics.measured import Measured
from diagnostics.metrics import Sums
from diagnostics.plan import Plan
from diagnostics.states import RANK_WINDOW
from engine.loading import load_model
from engine.options import EngineOptions
from engine.tokenizer import Tokenizer
from tests import oracle
from tests.engine.harness import Checkpoint, checkpoint

Quantities = dict[tuple[str, int], float]
"""By key and loop r."""


@cache
def windowed(loops: int, shift: int = 1, normalize: bool = True, on_hidden: bool = True) -> Checkpoint:
    """A random model whose window is shorter than the texts."""
    return checkpoint(
        seed=30 + loops,
        plt_num_loops=loops,
        plt_clp_shift=shift,
        plt_normalize_per_loop=normalize,
        plt_hidden_scale=0.9 if normalize else 0.2,
        plt_gate_use_hidden_states=on_hidden,
        plt_window_size=[3, 0],
    )


def measured_of(model: Checkpoint, plan: Plan, extra: int = 1, **options: Any) -> Measured:
    """Ready to measure documents, with small blocks so that windows cross them."""
    values = {"model_dir": str(model.path), "block_size": 4, "max_rows_per_step": 64, **options}
    wanted = engine_options(EngineOptions(**values), plan)
    loaded = load_model(wanted, False, more_loops=extra)
    return Measured(loaded, Tokenizer.load(model.path), plan, oracle.loops_of(model.config).number)


def measure(measured: Measured, tokens: list[int]) -> tuple[Sums, np.ndarray]:
    """Sums of one document, and its gates by loop, layer and head."""
    sums = Sums(measured.num_loops)
    states = DocumentRunner(measured.model, measured.plan.most_tokens, measured.plan.attention_positions).run(
        tokens, sums
    )
    measured._reduce(states, tokens, sums)
    return sums, states.gates.numpy() / len(tokens)


def expected(model: Checkpoint, tokens: list[int], loops: int, positions: list[int]) -> Quantities:
    """Every quantity as docs/diagnose.md writes it."""
    truth = oracle.trace(model.config, model.tensors, tokens, loops)
    raw = [truth.residuals[0][0].numpy(), *(of_loop[-1].numpy() for of_loop in truth.residuals)]
    weight = model.tensors["model.norm.weight"].double().numpy()
    eps = model.config["rms_norm_eps"]
    normed = [x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * weight for x in raw]
    found: Quantities = {}
    for kind, states in (("raw", raw), ("normed", normed)):
        found |= _states(kind, states, oracle.loops_of(model.config).shift)
    found |= _predictions([logits.numpy() for logits in truth.logits], tokens)
    found |= _attention(truth, positions)
    for loop in range(2, loops + 1):
        if truth.gates[loop - 1]:
            found["gate", loop] = float(np.mean([gates.numpy() for gates in truth.gates[loop - 1]]))
    return found


def _states(kind: str, h: list[np.ndarray], offset: int) -> Quantities:
    def norm(x: np.ndarray) -> np.ndarray:
        return np.sqrt((x**2).sum(axis=1))

    found: Quantities = {}
    for r in range(1, len(h)):
        step = h[r] - h[r - 1]
        found[f"step_size_{kind}", r] = norm(step).mean()
        found[f"relative_step_{kind}", r] = (norm(step) / norm(h[r - 1])).mean()
        singular = np.linalg.svd(h[r][:RANK_WINDOW], compute_uv=False)
        found[f"effective_rank_{kind}", r] = _exp_entropy(singular)
        if r + 1 < len(h):
            found[f"fixed_point_gap_{kind}", r] = norm(h[r + 1] - h[r]).mean()
        if r > 1:
            still = (r - 2) * offset  # positions that can't move any more
            assert not norm(step)[:still].any()
            cosines = [
                step[i] @ before / np.linalg.norm(step[i]) / np.linalg.norm(before)
                for i, before in enumerate(h[r - 1] - h[r - 2])
                if i >= still
            ]
            if cosines:
                found[f"update_alignment_{kind}", r] = float(np.mean(cosines))
            pairs = [np.linalg.norm(h[r - 1][i] - h[r - 1][i - offset]) for i in range(offset, len(step))]
            found[f"offset_cost_{kind}", r] = float(np.mean(pairs))
    return found


def _predictions(logits: list[np.ndarray], tokens: list[int]) -> Quantities:
    found: Quantities = {}
    targets = tokens[1:]
    probs = [np.exp(x - x.max(axis=1, keepdims=True)) for x in logits]
    probs = [(p / p.sum(axis=1, keepdims=True))[:-1] for p in probs]
    losses = [np.array([-np.log(p[i, t]) for i, t in enumerate(targets)]) for p in probs]
    for r, p in enumerate(probs, start=1):
        ranks = np.array([1 + (row > row[t]).sum() for row, t in zip(p, targets, strict=True)])
        found["loss", r] = losses[r - 1].mean()
        found["top1", r] = (ranks == 1).mean()
        found["lens_rank", r] = ranks.mean()
        found["lens_log_rank", r] = np.log(ranks).mean()
        found["output_entropy", r] = -(p * np.log(p)).sum(axis=1).mean()
        if r > 1:
            q = probs[r - 2]
            found["gain", r] = losses[r - 2].mean() - losses[r - 1].mean()
            found["output_shift", r] = (p * np.log(p / q)).sum(axis=1).mean()
            found["token_change", r] = (p.argmax(axis=1) != q.argmax(axis=1)).mean()
    return found


def _attention(truth: oracle.Trace, positions: list[int]) -> Quantities:
    """Means over layers, sampled positions and (where there is one number of each) heads."""
    by_key: dict[tuple[str, int], list[float]] = {}
    for loop, layers in enumerate(truth.weights):
        for layer, weights in enumerate(layers):
            for i in positions:
                context = weights[0][:, i, : i + 1].numpy()
                mixed = context
                if len(weights) > 1:
                    window = weights[1][:, i, : i + 1].numpy()
                    gate = truth.gates[loop][layer][i].numpy()[:, None]
                    mixed = gate * context + (1 - gate) * window
                    by_key.setdefault(("window_entropy", loop + 1), []).extend(map(_entropy, window))
                if loop > 0:
                    before = _mixed(truth, loop - 1, layer, i)
                    by_key.setdefault(("attention_kl", loop + 1), []).extend(
                        float((p * np.log(p / q)).sum()) for p, q in zip(mixed, before, strict=True)
                    )
                by_key.setdefault(("context_entropy", loop + 1), []).extend(map(_entropy, context))
                by_key.setdefault(("attention_entropy", loop + 1), []).extend(map(_entropy, mixed))
                rank = _exp_entropy(np.linalg.svd(mixed, compute_uv=False))
                by_key.setdefault(("head_rank", loop + 1), []).append(rank)
                cosines = [
                    a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                    for n, a in enumerate(mixed)
                    for b in mixed[n + 1 :]
                ]
                by_key.setdefault(("head_cosine", loop + 1), []).append(float(np.mean(cosines)))
    return {place: float(np.mean(values)) for place, values in by_key.items()}


def _mixed(truth: oracle.Trace, loop: int, layer: int, i: int) -> np.ndarray:
    weights = [part[:, i, : i + 1].numpy() for part in truth.weights[loop][layer]]
    if len(weights) == 1:
        return weights[0]
    gate = truth.gates[loop][layer][i].numpy()[:, None]
    return gate * weights[0] + (1 - gate) * weights[1]


def _entropy(p: np.ndarray) -> float:
    inside = p[p > 0]
    return float(-(inside * np.log(inside)).sum())


def _exp_entropy(values: np.ndarray) -> float:
    share = values / values.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))
