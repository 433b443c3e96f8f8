"""From what was measured to a report."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import torch

from diagnostics.corpus import Corpus
from diagnostics.estimates import LEVEL, RESAMPLES, Estimates
from diagnostics.measured import Measured
from diagnostics.metrics import METRICS
from diagnostics.report import CorpusFacts, DocumentLosses, MetricValues, ModelFacts, Report, shares
from diagnostics.serving_cost import PROMPT_TOKENS, ServingCost, serving_costs
from diagnostics.states import RANK_WINDOW
from diagnostics.verdict import decide
from engine.config import parameter_count
from engine.options import EngineOptions

PACKAGES = ("loopserve", "torch", "numpy", "numba", "tokenizers")
"""Whose versions have a part in the numbers."""
SHARED = ("output_shift", "attention_kl", "token_change")
"""Quantities of which the paper gives each loop's share."""


def assemble(
    measured: Measured,
    corpus: Corpus,
    files: list[Path],
    options: EngineOptions,
    notes: list[str],
) -> Report:
    """Put everything together.

    Args:
        files: as given.
        options: the model was loaded with.
        notes: what was left out so far.
    """
    plan, own_loops = measured.plan, measured.own_loops
    estimates = Estimates.of(measured.documents, plan.seed)
    loops = range(1, measured.num_loops + 1)
    metrics = [
        MetricValues(
            metric.key,
            metric.group,
            metric.label,
            metric.unit,
            metric.meaning,
            [estimates.get(metric.key, loop) for loop in loops],
        )
        for metric in METRICS
    ]
    by_key = {metric.key: metric for metric in metrics}
    predicted = measured.tokens - len(measured.documents)
    found_shares = {key: shares(by_key[key], own_loops) for key in SHARED}
    return Report(
        model=_model_facts(measured, options),
        corpus=CorpusFacts(
            files=[file.name for file in files],
            found=corpus.found,
            is_complete=corpus.is_complete,
            used=len(measured.documents),
            skipped=dict(corpus.skipped),
            cut=measured.cut,
            tokens=measured.tokens,
            predicted_tokens=predicted,
        ),
        settings=_settings(measured, options),
        versions=_versions(),
        has_extra_loop=measured.num_loops > own_loops,
        metrics=metrics,
        gates=_mean_gates(measured),
        shares={key: values for key, values in found_shares.items() if values is not None},
        serving=_serving(measured),
        verdict=decide(estimates, own_loops, predicted),
        documents=_documents(measured),
        excerpts=measured.excerpts,
        notes=[*notes, *_notes(measured)],
    )


def _documents(measured: Measured) -> list[DocumentLosses]:
    loops = range(1, measured.num_loops + 1)
    return [
        DocumentLosses(source, sums.count("loss", 1), [sums.mean("loss", loop) for loop in loops])
        for source, sums in zip(measured.sources, measured.documents, strict=True)
    ]


def _model_facts(measured: Measured, options: EngineOptions) -> ModelFacts:
    config = measured.model.config
    loops = config.loops
    return ModelFacts(
        name=Path(options.model_dir).name,
        model_type=config.model_type,
        parameters=parameter_count(config),
        loops=measured.own_loops,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        offset=loops.offset,
        window=loops.window,
        emb_scale=loops.emb_scale,
        hidden_scale=loops.hidden_scale,
        normalize_per_loop=loops.normalize_per_loop,
    )


def _settings(measured: Measured, options: EngineOptions) -> dict[str, Any]:
    """What has a part in the numbers."""
    plan, device = measured.plan, measured.model.runner.staging.device
    return {
        "documents": plan.most_documents,
        "max_tokens": plan.most_tokens,
        "attention_positions": plan.attention_positions,
        "rank_window": RANK_WINDOW,
        "seed": plan.seed,
        "resamples": RESAMPLES,
        "interval": LEVEL,
        "prompt_tokens": PROMPT_TOKENS,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": options.dtype,
        "quantization": options.quantization,
        "kv_cache_dtype": options.kv_cache_dtype,
        "attention_backend": options.attention_backend,
        "max_rows_per_step": options.max_rows_per_step,
        "model_overrides": msgspec.to_builtins(options.model_overrides),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"  # running from a tree that was never installed
    return found


def _mean_gates(measured: Measured) -> list[list[list[float]] | None]:
    return [(gates / measured.tokens).tolist() if gates.any() else None for gates in measured.gates]


def _serving(measured: Measured) -> list[ServingCost]:
    model = measured.model
    state = model.runner.state
    costs = serving_costs(
        model.config, model.runner.layout, state.caches[0].keys.element_size(), state.carries.element_size()
    )
    return costs[: measured.own_loops]


def _notes(measured: Measured) -> list[str]:
    """What this model or corpus has none of."""
    config, notes, own_loops = measured.model.config, [], measured.own_loops
    if config.loops.offset == 0 and own_loops > 1:
        notes.append(
            "This model's loops read the state of their own position: its offset cost is zero by design."
        )
    if not measured.gates.any() and own_loops > 1:
        notes.append("No gates: no loop of this model mixes a context with a window.")
    if measured.plan.attention_positions == 0:
        notes.append("Attention weights were not looked at.")
    if own_loops == 2:
        notes.append("Shares of the loops after the first say nothing where there is one; they are left out.")
    return notes
