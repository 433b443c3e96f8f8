"""One rank's part of a model: what is decided before loading, its weights, and the runner around them.

A model that isn't split is one rank that holds everything.
"""

import importlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numba
import torch
from tqdm import tqdm

from engine.cache_scales import set_cache_scales
from engine.checkpoint import load_tensors, open_checkpoint
from engine.config import ModelConfig, load_config
from engine.errors import ConfigError, ModelError
from engine.followers import Followers
from engine.host_memory import gibibytes
from engine.kv_arithmetic import layout_of
from engine.model import LoopedModel
from engine.options import EngineOptions
from engine.placement import Placement, free_memory, memory_left, resolve_placement, weight_bytes
from engine.rank_group import RankGroup, gathered_heads, summed_products
from engine.rank_link import CacheSize
from engine.rope import build_rope_table
from engine.runner import ModelRunner, make_state
from engine.tensor_parallel import check_divisible
from engine.weights import ModelWeights, ProductFactories, build_weights
from kernels.interface import KernelBackend
from kernels.linear import LinearFactory, PlainLinear
from kernels.panel_linear import PanelLinears
from kernels.registry import load_backend
from scheduler.loop_layout import LoopLayout


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What every rank decides alike before it loads anything.

    Attributes:
        config: of the whole model.
        max_model_len: wanted; the cache may allow less.
    """

    options: EngineOptions
    config: ModelConfig
    placement: Placement
    max_model_len: int

    @property
    def layout(self) -> LoopLayout:
        return layout_of(self.config, self.options.block_size)


@dataclass(frozen=True, slots=True)
class LoadedRank:
    """Weights in place; the cache has no size yet.

    Attributes:
        config: the shapes of this rank's part.
    """

    plan: LoadPlan
    config: ModelConfig
    kernels: KernelBackend
    weights: ModelWeights

    def free_memory(self) -> int:
        """Bytes that this rank's block pool may take by default."""
        return free_memory(self.plan.placement.device, self.plan.options.tensor_parallel_size)

    def under(self, plan: LoadPlan) -> "LoadedRank":
        """The same weights under another plan, which may have fewer loops. Of a model that isn't split.

        Raises:
            ModelError: the plan wants the weights stored differently or elsewhere.
        """
        if plan.placement != self.plan.placement:
            raise ModelError("models that share weights need the same device, dtypes and quantization")
        weights = self.weights
        if plan.config.loops.num_loops == 1:
            weights = replace(weights, layers=[replace(layer, gate=None) for layer in weights.layers])
        return LoadedRank(plan, plan.config, self.kernels, weights)

    def make_runner(self, size: CacheSize, followers: Followers | None = None) -> ModelRunner:
        """Allocate the cache.

        Args:
            followers: the other ranks, on the first.
        """
        plan = self.plan
        rope = build_rope_table(self.config, size.max_model_len, plan.placement.device)
        state = make_state(
            self.config,
            plan.placement,
            plan.options.block_size,
            size.num_blocks,
            size.num_carry_slots,
            plan.options.prefix_caching,
        )
        model = LoopedModel(self.config, self.weights, self.kernels, rope)
        if plan.placement.cache_dtype == torch.uint8:
            set_cache_scales(model, state, plan.layout, plan.placement, size.max_model_len)
        return ModelRunner(model, plan.layout, state, plan.placement.device, followers or Followers())


def plan_load(options: EngineOptions, rank: int, more_loops: int = 0) -> LoadPlan:
    """Read the config and choose where this rank lives; also sets the process's number of compute threads.

    Args:
        more_loops: to plan for, than the config has.

    Raises:
        ModelError: the model or an option can't be served.
    """
    _set_threads(options)
    config = load_config(Path(options.model_dir), options.model_overrides)
    loops = replace(config.loops, num_loops=config.loops.num_loops + more_loops)
    config = replace(config, loops=loops)
    wanted_len = _wanted_model_len(config, options)
    _check_row_budget(config, options)
    check_divisible(config, options.tensor_parallel_size)
    return LoadPlan(options, config, resolve_placement(options, config, rank), wanted_len)


def load_rank(plan: LoadPlan, group: RankGroup | None, show_progress: bool) -> LoadedRank:
    """Load what this rank holds.

    Args:
        group: the other ranks; None if the model isn't split.

    Raises:
        ModelError: the checkpoint can't be served.
    """
    kernels = load_backend(plan.placement.backend)
    kernels.warm_up(plan.placement.cache_dtype)
    config = plan.config if group is None else group.shard.config(plan.config)
    return LoadedRank(plan, config, kernels, _load_weights(plan, config, group, show_progress))


def _set_threads(options: EngineOptions) -> None:
    count = max(1, (options.threads or len(os.sched_getaffinity(0))) // options.tensor_parallel_size)
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


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


def _check_weights_fit(plan: LoadPlan) -> None:
    """Before anything is allocated: the kernel would end a process that takes too much without a word."""
    ranks = plan.options.tensor_parallel_size
    needed = weight_bytes(plan.config, plan.placement) // ranks
    left = memory_left(plan.placement.device, ranks)
    if needed > left:
        raise ModelError(
            f"The weights take at least {gibibytes(needed)} of memory and {gibibytes(left)} are free; "
            "free some, or store them in less with --quantization or --dtype."
        )


def _load_weights(
    plan: LoadPlan, config: ModelConfig, group: RankGroup | None, show_progress: bool
) -> ModelWeights:
    checkpoint = open_checkpoint(Path(plan.options.model_dir), plan.config)
    _check_weights_fit(plan)
    with tqdm(
        desc="Loading weights",
        unit="tensor",
        file=sys.stderr,
        disable=not show_progress or not sys.stderr.isatty(),
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        tensors = load_tensors(checkpoint, plan.placement.weight_dtype, progress)
        if group is not None:
            tensors = group.shard.tensors(plan.config, tensors)
        placed = ((name, tensor.to(plan.placement.device)) for name, tensor in tensors)
        return build_weights(config, placed, product_factories(plan, group), plan.placement.dtype)


def product_factories(plan: LoadPlan, group: RankGroup | None) -> ProductFactories:
    """How a rank's products are made."""
    layer, head = _layer_linears(plan.placement), _plain_linears(plan.placement)
    if group is None:
        return ProductFactories(layer, layer, head)
    return ProductFactories(
        layer, summed_products(layer, group), gathered_heads(head, plan.config.vocab_size, group)
    )


def _plain_linears(placement: Placement) -> LinearFactory:
    if placement.packs_panels:
        return PanelLinears("bfloat16" if placement.weight_dtype == torch.bfloat16 else "float32")
    return PlainLinear


def _layer_linears(placement: Placement) -> LinearFactory:
    """torchao is imported when it is asked for: it is optional, and slow to import."""
    if placement.quantization == "none":
        return _plain_linears(placement)
    if placement.packs_panels:
        return PanelLinears(placement.quantization)
    quantized = importlib.import_module("kernels.quantized_linear")
    factory: LinearFactory = (
        quantized.Int8Linear if placement.quantization == "int8" else quantized.Int4Linear
    )
    return factory
