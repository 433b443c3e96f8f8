"""From a checkpoint and files to a report, one document at a time."""

import sys
from pathlib import Path

import msgspec
from tqdm import tqdm

from diagnostics.assemble import assemble
from diagnostics.corpus import choose
from diagnostics.errors import DiagnosticsError
from diagnostics.measured import Measured
from diagnostics.plan import Plan
from diagnostics.report import Report
from engine.errors import CheckpointError
from engine.loading import LoadedModel, load_model, load_with_more_loops
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
    tokenizer = Tokenizer.load(Path(options.model_dir))
    options = engine_options(options, plan)
    notes: list[str] = []
    model, own_loops = _load(options, plan, notes)
    measured = Measured(model, tokenizer, plan, own_loops)
    with tqdm(corpus.texts(), "Documents", len(corpus.places), file=sys.stderr, disable=None) as texts:
        for place, text in texts:
            if text is not None:
                measured.add(place.name, text, corpus)
    if not measured.documents:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in corpus.skipped.items())
        raise DiagnosticsError(f"--data has no document that can be measured ({reasons})")
    return assemble(measured, corpus, files, options, notes)


def _load(options: EngineOptions, plan: Plan, notes: list[str]) -> tuple[LoadedModel, int]:
    """The model with an extra loop if it can have one, and how many loops are its own."""
    if not plan.extra_loop:
        why = "it was not asked for"
    elif options.kv_cache_dtype == "fp8":
        why = "it would take part in choosing the scales of an fp8 cache"
    else:
        try:
            model = load_with_more_loops(options, 1, show_progress=True)
            return model, model.config.loops.num_loops - 1
        except CheckpointError:
            why = "the checkpoint lacks what a second loop needs (its gates)"
            model = load_model(options, show_progress=True)
            if model.config.loops.num_loops > 1:
                raise
            notes.append(_no_extra_loop(why))
            return model, 1
    model = load_model(options, show_progress=True)
    notes.append(_no_extra_loop(why))
    return model, model.config.loops.num_loops


def _no_extra_loop(why: str) -> str:
    return f"The fixed-point gap of the last loop needs one more application of the layers; it is left out: {why}."
