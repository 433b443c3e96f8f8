"""From a checkpoint and files to a report, one document at a time."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
from tqdm import tqdm

from diagnostics.assemble import assemble
from diagnostics.attention import sampled_positions
from diagnostics.corpus import choose
from diagnostics.errors import DiagnosticsError
from diagnostics.measured import Measured
from diagnostics.plan import Plan
from diagnostics.report import Report
from engine.config import load_config
from engine.errors import CheckpointError
from engine.loading import LoadedModel, load_model
from engine.options import EngineOptions
from engine.tokenizer import Tokenizer


def engine_options(options: EngineOptions, plan: Plan) -> EngineOptions:
    """The same options for one document at a time, with nothing on that only serving needs."""
    return msgspec.structs.replace(
        options,
        max_model_len=plan.most_tokens,
        max_num_seqs=1,
        prefix_caching=False,
        cuda_graphs=False,
        self_check=False,
        calibration_time=0.0,
        shadow_steps=0,
        loop_metrics_sample=0.0,
        execution="parallel",
    )


def diagnose(options: EngineOptions, files: list[Path], plan: Plan) -> Report:
    """Diagnose a model on some texts.

    Raises:
        ModelError: the model can't be served.
        DiagnosticsError: the texts can't be used.
    """
    corpus = choose(files, plan.most_documents, plan.seed)
    config = load_config(Path(options.model_dir), options.model_overrides)
    plan = replace(plan, most_tokens=min(plan.most_tokens, config.max_position_embeddings))
    tokenizer = Tokenizer.load(Path(options.model_dir))
    options = engine_options(options, plan)
    notes: list[str] = []
    own_loops = config.loops.num_loops
    measured = Measured(_load(options, plan, own_loops, notes), tokenizer, plan, own_loops)
    with tqdm(corpus.texts(), "Documents", len(corpus.places), file=sys.stderr, disable=None) as texts:
        shown = sampled_positions(len(corpus.places), plan.excerpts)
        for number, (place, text) in enumerate(texts):
            if text is not None:
                # One that was to be shown and could not be measured is made up for by the next.
                due = sum(wanted <= number for wanted in shown)
                measured.add(place.name, text, corpus, with_excerpt=len(measured.excerpts) < due)
    if not measured.documents:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in corpus.skipped.items())
        raise DiagnosticsError(f"--data has no document that can be measured ({reasons})")
    return assemble(measured, corpus, files, options, notes)


def _load(options: EngineOptions, plan: Plan, own_loops: int, notes: list[str]) -> LoadedModel:
    """The model, with an extra loop if it can have one."""
    if not plan.extra_loop:
        notes.append(_no_extra_loop("it was not asked for"))
    elif options.kv_cache_dtype == "fp8":
        notes.append(_no_extra_loop("it would take part in choosing the scales of an fp8 cache"))
    else:
        try:
            return load_model(options, show_progress=True, more_loops=1)
        except CheckpointError:
            if own_loops > 1:
                raise
            notes.append(_no_extra_loop("the checkpoint lacks what a second loop needs, its gates"))
    return load_model(options, show_progress=True)


def _no_extra_loop(why: str) -> str:
    return f"The fixed-point gap of the last loop needs one more application of the layers; it is left out: {why}."
