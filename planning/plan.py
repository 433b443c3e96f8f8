"""One plan: a model on hardware, for so many sequences of so many tokens."""

from dataclasses import dataclass, field

from engine.config import ModelConfig
from planning.devices import Device
from planning.errors import PlanError
from planning.formats import Formats
from planning.memory import CacheOptions, MemoryModel, MemoryPlan, check_ranks
from planning.roofline import Deployment, StepTime, free_until, ridge_rows
from planning.shape import shape_of


@dataclass(frozen=True, slots=True)
class Asked:
    """What is planned for.

    Attributes:
        context: tokens of a sequence, prompt and answer.
        concurrency: sequences at once.
    """

    config: ModelConfig
    formats: Formats
    device: Device
    context: int
    concurrency: int
    ranks: int = 1
    cache: CacheOptions = field(default_factory=CacheOptions)


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """One token for every sequence.

    Attributes:
        free_until: largest number of sequences at which R loops cost at most 1.1 times one; None above 1024.
        ridge_rows: rows of a pass from which products wait for arithmetic, not for weights.
    """

    parallel: StepTime
    sequential: StepTime
    one_loop: StepTime
    free_until: int | None
    ridge_rows: float


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """A prompt of the whole context, alone.

    Attributes:
        parallel: later loops on the tail only.
        sequential: every loop everywhere, as a cache that keeps each loop's whole context needs it.
    """

    parallel: StepTime
    sequential: StepTime
    one_loop: StepTime


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer.

    Attributes:
        fits: whether the concurrency asked for fits into memory at that context.
        limit: what limits it, in words.
        rows_needed: `--max-rows-per-step` that this concurrency needs at least.
    """

    asked: Asked
    memory: MemoryPlan
    decode: DecodePlan
    prefill: PrefillPlan
    fits: bool
    limit: str
    rows_needed: int


def make_plan(asked: Asked) -> Plan:
    """Do the arithmetic.

    Raises:
        PlanError: the model can't be served so, or a figure is missing.
    """
    config, loops = asked.config, asked.config.loops.num_loops
    check_ranks(config, asked.ranks)
    if asked.context > config.max_position_embeddings and config.rope_scaling.kind != "dynamic":
        raise PlanError(
            f"--context {asked.context} is above the model's max_position_embeddings "
            f"({config.max_position_embeddings})"
        )
    memory = MemoryModel(config, asked.formats, asked.device, asked.ranks, asked.cache).plan(asked.context)
    deployment = Deployment(shape_of(config, asked.formats), asked.device, asked.ranks)
    chunk = asked.cache.max_rows_per_step
    batch, context = asked.concurrency, asked.context
    decode = DecodePlan(
        parallel=deployment.decode(loops, "parallel", batch, context),
        sequential=deployment.decode(loops, "sequential", batch, context),
        one_loop=deployment.decode(1, "parallel", batch, context),
        free_until=free_until(deployment, loops, context),
        ridge_rows=ridge_rows(asked.device, deployment.shape),
    )
    prefill = PrefillPlan(
        parallel=deployment.prefill(loops, context, True, chunk),
        sequential=deployment.prefill(loops, context, False, chunk),
        one_loop=deployment.prefill(1, context, True, chunk),
    )
    fits = asked.concurrency <= memory.fitting["shared"]
    return Plan(asked, memory, decode, prefill, fits, _limit(asked, memory), asked.concurrency * loops)


def _limit(asked: Asked, memory: MemoryPlan) -> str:
    fitting = memory.fitting["shared"]
    if memory.weights_per_rank > asked.device.memory:
        return "the weights do not fit: use --quantization, a larger GPU or --tensor-parallel-size"
    if memory.cache_per_rank == 0:
        return "--kv-cache-memory is more than the weights leave"
    if fitting == 0:
        return "not one sequence of this context fits into the cache"
    if fitting < asked.concurrency:
        return f"the cache is full at {fitting} sequences; the others would wait or be preempted"
    return f"nothing up to {fitting} sequences, where the cache is full"
