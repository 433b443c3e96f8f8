"""From options to a model that is ready to run: ranks, block pool, scheduler, runner."""

import errno
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import torch

from engine.config import ModelConfig, parameter_count
from engine.decode_graphs import CudaGraphCapture, DecodeLimits
from engine.errors import ModelError
from engine.followers import Followers
from engine.host_memory import gibibytes
from engine.kv_arithmetic import (
    carry_bytes_per_sequence,
    context_bytes_per_token,
    one_loop_bytes_per_token,
    sequential_bytes_per_token,
    window_bytes_per_sequence,
)
from engine.messages import PROTOCOL_VERSION, CacheSizes, EngineReady
from engine.options import EngineOptions
from engine.placement import memory_left
from engine.rank_link import CacheSize
from engine.rank_loading import LoadedRank, LoadPlan, load_rank, plan_load
from engine.runner import ModelRunner, block_bytes
from engine.self_check import Subject, is_batch_invariant
from scheduler.loop_layout import LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits

logger = logging.getLogger(__name__)

MAX_REASON_CHARS = 200
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What an engine core drives."""

    config: ModelConfig
    runner: ModelRunner
    scheduler: Scheduler
    max_model_len: int
    ready: EngineReady


def load_model(options: EngineOptions, show_progress: bool, more_loops: int = 0) -> LoadedModel:
    """Load a checkpoint and size the cache; with tensor parallelism, also start the other ranks.

    Args:
        more_loops: than the config has, whatever its family calls them; only for looking at, and without tensor
            parallelism. What the config's loops compute is the same with more after them.

    Raises:
        ModelError: the model or an option can't be served; of a model of one loop perhaps only not with more.
        EngineDeadError: another rank failed.
    """
    plan = plan_load(options, rank=0, more_loops=more_loops)
    followers = Followers.start(options)
    try:
        rank = load_rank(plan, followers.join(options, plan.placement.device), show_progress)
        model = assemble(rank, followers)
        return _self_checked(model, rank) if options.self_check else model
    except BaseException as error:
        followers.close()
        if is_out_of_memory(error):
            reason = str(error).partition("\n")[0][:MAX_REASON_CHARS] or type(error).__name__
            raise ModelError(
                f"There is not enough memory for this model; free some, or lower --kv-cache-memory ({reason})."
            ) from None
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise ModelError(f"The engine could not start: {error.strerror} ({error.filename}).") from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. PyTorch has a class of its own for that on GPUs only."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _self_checked(model: LoadedModel, rank: LoadedRank) -> LoadedModel:
    """The model with what the self-check found. A failed one is reported, and the model is served all the same."""
    placement, started = rank.plan.placement, time.monotonic()
    if (placement.backend, placement.device.type) == ("triton", "cpu"):
        return model  # Triton's interpreter would take minutes
    if placement.device.type == "cpu" and rank.plan.options.tensor_parallel_size == 1:
        subject = Subject.first_layer(rank)
    else:
        scheduler = model.scheduler
        subject = Subject(model.runner, scheduler.limits, scheduler.blocks.num_blocks, model.max_model_len)
    holds = is_batch_invariant(subject)
    seconds = time.monotonic() - started
    if holds:
        logger.info("self-check: a request gets the same bits alone and in a crowd (%.2f s)", seconds)
    elif placement.backend == "cpu":
        logger.warning(
            "self-check failed: on this machine a request's results depend in their last bits on the requests beside "
            "it, which the CPU backend promises to rule out; answers are not reproducible bit for bit. Please report "
            "the CPU and the versions of torch, numba and llvmlite (%.2f s)",
            seconds,
        )
    else:
        logger.info(
            "self-check: a request's results depend in their last bits on the requests beside it; the %s backend "
            "promises nothing else (%.2f s)",
            placement.backend,
            seconds,
        )
    return replace(model, ready=msgspec.structs.replace(model.ready, batch_invariant=holds))


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to serve weights.

    Attributes:
        num_loops: at most the model's; None for all of them.
    """

    options: EngineOptions
    num_loops: int | None = None

    def plan(self) -> LoadPlan:
        """The plan of its only rank."""
        plan = plan_load(self.options, rank=0)
        if self.num_loops is None:
            return plan
        loops = replace(plan.config.loops, num_loops=self.num_loops)
        return replace(plan, config=replace(plan.config, loops=loops))


def load_variants(variants: Sequence[Variant], show_progress: bool) -> list[LoadedModel]:
    """Load a checkpoint once and serve it in several ways, each with a cache of its own.

    Args:
        variants: the first must have the most loops; they may differ in execution, loops, lengths and limits, but not
            in what the weights are stored as or where. Without tensor parallelism.

    Raises:
        ModelError: the model or an option can't be served.
    """
    plans = [variant.plan() for variant in variants]
    rank = load_rank(plans[0], None, show_progress)
    return [assemble(rank.under(plan), Followers()) for plan in plans]


def assemble(rank: LoadedRank, followers: Followers) -> LoadedModel:
    """Size and make the cache, on all ranks, and the scheduler over it.

    Args:
        rank: the first.

    Raises:
        ModelError: there is too little memory for the cache.
    """
    plan = rank.plan
    options, placement = plan.options, plan.placement
    # This rank's last, when all have loaded: ranks on the CPU take from the same memory.
    memory = min([*followers.free_memory(), rank.free_memory()])
    scheduler = _make_scheduler(rank, memory)
    max_model_len = _fitting_model_len(scheduler, options, plan.max_model_len)
    size = CacheSize(scheduler.blocks.num_blocks, scheduler.carries.capacity, max_model_len)
    _check_cache_fits(rank, size)
    followers.make_caches(size)
    runner = rank.make_runner(size, followers)
    if placement.captures_graphs and options.cuda_graphs and options.tensor_parallel_size == 1:
        runner.capture_graphs(_decode_limits(plan, runner, max_model_len), CudaGraphCapture())
    ready = _describe(plan, scheduler, max_model_len)
    _log(options, plan.config, ready)
    return LoadedModel(plan.config, runner, scheduler, max_model_len, ready)


def _make_scheduler(rank: LoadedRank, free_memory: int) -> Scheduler:
    """Size the pool: the memory given, but no more than every sequence at full length could use.

    Args:
        free_memory: bytes that each rank may take by default.
    """
    plan, options, layout = rank.plan, rank.plan.options, rank.plan.layout
    limits = SchedulerLimits(
        options.max_num_seqs, options.max_rows_per_step, options.execution, options.prefix_caching
    )
    memory = free_memory
    if options.kv_cache_memory is not None:
        memory = options.kv_cache_memory // options.tensor_parallel_size
    affordable = memory // block_bytes(
        rank.config, plan.placement, options.block_size, options.prefix_caching
    )
    longest = layout.blocks_for(plan.max_model_len, options.max_rows_per_step)
    # Beside them, what admitting the last keeps free for those that run (`Scheduler`).
    useful = options.max_num_seqs * longest + (options.max_num_seqs - 1) * layout.num_loops
    return Scheduler(layout, limits, int(min(affordable, useful)))


def _check_cache_fits(rank: LoadedRank, size: CacheSize) -> None:
    """Memory is taken when it is first written to, so a pool that is too large would end a server at work."""
    plan, config = rank.plan, rank.config
    blocks = size.num_blocks * block_bytes(
        config, plan.placement, plan.options.block_size, plan.options.prefix_caching
    )
    needed = blocks + size.num_carry_slots * config.hidden_size * plan.placement.dtype.itemsize
    left = memory_left(plan.placement.device, plan.options.tensor_parallel_size)
    if needed > left:
        raise ModelError(
            f"The cache takes {gibibytes(needed)} of memory and {gibibytes(left)} are free beside the weights; "
            "lower --kv-cache-memory, --max-num-seqs or --max-rows-per-step."
        )


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


def _decode_limits(plan: LoadPlan, runner: ModelRunner, max_model_len: int) -> DecodeLimits:
    options, layout = plan.options, plan.layout
    return DecodeLimits(
        num_windows=layout.num_windows,
        rows_per_tile=_rows_per_tile(options, layout),
        max_tiles=options.max_num_seqs * _tiles_per_sequence(layout),
        max_model_len=max_model_len,
        block_size=layout.block_size,
        window=layout.window,
        tiling=runner.format.tiling,
    )


def _rows_per_tile(options: EngineOptions, layout: LoopLayout) -> tuple[int, ...]:
    """Both executions need graphs of their own size if the baseline is to be measured fairly."""
    in_one_pass = layout.num_windows + 1 if layout.decodes_in_one_pass else 1
    if options.calibration_time or options.shadow_steps:
        return tuple(sorted({1, in_one_pass}))
    return (in_one_pass,) if options.execution == "parallel" else (1,)


def _tiles_per_sequence(layout: LoopLayout) -> int:
    """Decode tiles that a sequence has in a pass: one per loop in it, if those have contexts of their own."""
    return layout.num_loops if layout.decodes_in_one_pass and not layout.has_windows else 1


def _describe(plan: LoadPlan, scheduler: Scheduler, max_model_len: int) -> EngineReady:
    """Figures of the whole model, however many ranks share it."""
    config, element = plan.config, plan.placement.cache_dtype.itemsize
    return EngineReady(
        protocol_version=PROTOCOL_VERSION,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        num_parameters=parameter_count(config),
        num_loops=config.loops.num_loops,
        num_blocks=scheduler.blocks.num_blocks,
        block_size=scheduler.layout.block_size,
        execution=plan.options.execution,
        kv_bytes_per_token=context_bytes_per_token(config, element),
        kv_bytes_per_token_sequential=sequential_bytes_per_token(config, element),
        kv_bytes_per_sequence=window_bytes_per_sequence(config, element)
        + carry_bytes_per_sequence(config, plan.placement.dtype.itemsize),
        cache=_cache_sizes(plan, scheduler.layout),
    )


def _cache_sizes(plan: LoadPlan, layout: LoopLayout) -> CacheSizes:
    """Keys and values are split over the ranks, H vectors are whole on each."""
    config, options, placement = plan.config, plan.options, plan.placement
    hidden = config.hidden_size * placement.dtype.itemsize * options.tensor_parallel_size
    return CacheSizes(
        kv_block=one_loop_bytes_per_token(config, placement.cache_dtype.itemsize) * layout.block_size,
        block_hidden=hidden if options.prefix_caching and layout.num_loops > 1 else 0,
        carry_slot=hidden,
        window_blocks=layout.window_blocks(1) if layout.has_windows else 0,
        has_windows=layout.has_windows,
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
