"""From options to a model that is ready to run: weights, block pool, scheduler, runner."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numba
import psutil
import torch
from tqdm import tqdm

from engine.checkpoint import Checkpoint, load_tensors, open_checkpoint
from engine.config import ModelConfig, load_config, parameter_count
from engine.errors import ConfigError, ModelError
from engine.kv_arithmetic import (
    carry_bytes_per_sequence,
    sequential_bytes_per_token,
    shared_bytes_per_token,
    window_bytes_per_sequence,
)
from engine.messages import PROTOCOL_VERSION, EngineReady
from engine.model import LoopedModel
from engine.options import EngineOptions
from engine.runner import ModelRunner, block_bytes
from engine.weights import ModelWeights, build_weights
from kernels.registry import attention_backend
from kernels.warm_up import compile_kernels
from scheduler.loop_layout import LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits

logger = logging.getLogger(__name__)

FREE_MEMORY_SHARE = 0.3
"""Share of the memory left after loading that the block pool takes by default."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What an engine core drives."""

    config: ModelConfig
    runner: ModelRunner
    scheduler: Scheduler
    max_model_len: int
    ready: EngineReady


def load_model(options: EngineOptions, show_progress: bool) -> LoadedModel:
    """Load a checkpoint and size the cache.

    Raises:
        ModelError: the model or an option can't be served.
    """
    _set_threads(options.threads)
    model_dir = Path(options.model_dir)
    config = load_config(model_dir, options.model_overrides)
    wanted_len = _wanted_model_len(config, options)
    _check_row_budget(config, options)
    weights = _load_weights(open_checkpoint(model_dir, config), config, show_progress)
    layout = LoopLayout(
        config.loops.num_loops,
        config.loops.offset,
        config.loops.window,
        config.num_layers,
        options.block_size,
    )
    scheduler = _make_scheduler(config, layout, options, wanted_len)
    max_model_len = _fitting_model_len(scheduler, options, wanted_len)
    model = LoopedModel(config, weights, attention_backend(options.attention_backend), max_model_len)
    compile_kernels()
    runner = ModelRunner(
        model, layout, scheduler.blocks.num_blocks, scheduler.carries.capacity, options.prefix_caching
    )
    ready = _describe(config, options, scheduler, max_model_len)
    _log(options, config, ready)
    return LoadedModel(config, runner, scheduler, max_model_len, ready)


def _set_threads(threads: int | None) -> None:
    count = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.get_num_threads()))


def _wanted_model_len(config: ModelConfig, options: EngineOptions) -> int:
    most = config.max_position_embeddings
    if options.max_model_len is None:
        return most
    if options.max_model_len > most and config.rope_scaling.kind != "dynamic":
        raise ConfigError(
            f"--max-model-len {options.max_model_len} is above the model's max_position_embeddings ({most}); "
            "positions beyond it are out of the model's range"
        )
    return options.max_model_len


def _check_row_budget(config: ModelConfig, options: EngineOptions) -> None:
    least = options.max_num_seqs * config.loops.num_loops
    if options.max_rows_per_step < least:
        raise ModelError(
            f"--max-rows-per-step {options.max_rows_per_step} is too small: {options.max_num_seqs} sequences of "
            f"{config.loops.num_loops} loops need at least {least}; raise it or lower --max-num-seqs"
        )


def _load_weights(checkpoint: Checkpoint, config: ModelConfig, show_progress: bool) -> ModelWeights:
    with tqdm(
        desc="Loading weights",
        unit="tensor",
        file=sys.stderr,
        disable=not show_progress or not sys.stderr.isatty(),
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return build_weights(config, load_tensors(checkpoint, torch.float32, progress))


def _make_scheduler(
    config: ModelConfig, layout: LoopLayout, options: EngineOptions, max_model_len: int
) -> Scheduler:
    """Size the pool: the memory given, but no more than every sequence at full length could use."""
    limits = SchedulerLimits(
        options.max_num_seqs, options.max_rows_per_step, options.execution, options.prefix_caching
    )
    memory = options.kv_cache_memory
    if memory is None:
        memory = int(psutil.virtual_memory().available * FREE_MEMORY_SHARE)
    affordable = memory // block_bytes(config, layout.block_size, options.prefix_caching)
    useful = options.max_num_seqs * layout.blocks_for(max_model_len, options.max_rows_per_step)
    return Scheduler(layout, limits, int(min(affordable, useful)))


def _fitting_model_len(scheduler: Scheduler, options: EngineOptions, wanted: int) -> int:
    fitting = scheduler.max_sequence_len(wanted)
    if fitting == wanted:
        return wanted
    pool = f"a cache of {scheduler.blocks.num_blocks} blocks of {scheduler.layout.block_size} tokens"
    if options.max_model_len is not None or fitting < 2:
        raise ModelError(
            f"{pool} holds sequences of at most {fitting} tokens, but {wanted} are wanted; "
            "raise --kv-cache-memory or lower --max-model-len"
        )
    logger.warning("%s lowers the maximum sequence length from %d to %d tokens", pool, wanted, fitting)
    return fitting


def _describe(
    config: ModelConfig, options: EngineOptions, scheduler: Scheduler, max_model_len: int
) -> EngineReady:
    element = torch.float32.itemsize
    return EngineReady(
        protocol_version=PROTOCOL_VERSION,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        num_parameters=parameter_count(config),
        num_loops=config.loops.num_loops,
        num_blocks=scheduler.blocks.num_blocks,
        block_size=scheduler.layout.block_size,
        execution=options.execution,
        kv_bytes_per_token=shared_bytes_per_token(config, element),
        kv_bytes_per_token_sequential=sequential_bytes_per_token(config, element),
        kv_bytes_per_sequence=window_bytes_per_sequence(config, element)
        + carry_bytes_per_sequence(config, element),
    )


def _log(options: EngineOptions, config: ModelConfig, ready: EngineReady) -> None:
    logger.info(
        "loaded %s: %s parameters, %d loops, %d layers, %s execution",
        options.model_dir,
        f"{ready.num_parameters:,}",
        ready.num_loops,
        config.num_layers,
        ready.execution,
    )
    logger.info(
        "cache: %d blocks of %d tokens, sequences up to %d tokens; %s KV bytes per token "
        "(a sequential-loop cache: %s), %s bytes per sequence for windows and carry",
        ready.num_blocks,
        ready.block_size,
        ready.max_model_len,
        f"{ready.kv_bytes_per_token:,}",
        f"{ready.kv_bytes_per_token_sequential:,}",
        f"{ready.kv_bytes_per_sequence:,}",
    )
