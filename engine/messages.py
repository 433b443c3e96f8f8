"""What crosses the border between the API process and the engine, and nothing else.

msgspec structs, encoded as MessagePack arrays: no pickle, no code from the wire. The same objects are passed by
reference when the engine runs in-process.
"""

from typing import Literal

import msgspec

from engine.sampling_params import SamplingParams

PROTOCOL_VERSION = 5


class Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """One sequence to generate. A client's `n` choices or list of prompts are so many requests.

    Attributes:
        request_id: unique, made by the server (a client's id is never used as a key).
        prompt_token_ids: the whole prompt, at least one token.
        priority: lower is served earlier; see `scheduler.policy` for what a step of priority is worth.
        cache_salt: prompts with different salts never share cached blocks; chosen by the client.
        num_loops: loops to run for this sequence, at most the model's R; None is R.
        tenant: who asks, as the server knows it. Tenants never share cached blocks, and each has its share of them.
        label: what lines in the log call it, for whoever looks for the client's request; "" is `request_id`.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    num_loops: int | None = None
    tenant: str = ""
    label: str = ""


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Forget these requests; unknown or finished ids are ignored. No output follows for them."""

    request_ids: list[str]


class DescribeCache(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Answer with a `CacheMap`, between two steps."""


class Shutdown(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End the engine process now."""


class Calibrate(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Measure the parallel against the sequential loop while serving; `Calibrated` follows when it is done."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of one token under the raw (untempered, unpenalised) distribution.

    Attributes:
        top: the most probable (token id, logprob) pairs, best first, as many as were asked for.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one step gave one request.

    Attributes:
        token_ids: new tokens, at most one per step. A stop token that ended the sequence is included.
        logprobs: one per new token, when asked for.
        prompt_logprobs: one per prompt token (None for the first), sent once, when asked for.
        loop_logprobs: per new token, the log-probability that each loop would have given it, when asked for; the first
            loop's first, the last the same number as in `logprobs`.
        loop_tokens: beside them, the token that each loop found most probable.
        finish_reason: None while running; "stop", "length", or "error".
        stop_token_id: the stop token that ended the sequence, if one did.
        cached_tokens: prompt tokens whose K/V came from the prefix cache.
        num_loops: loops that this request runs; 0 if it was refused.
        error: text for the client when `finish_reason` is "error".
        invalid: True if `error` is the request's own fault (HTTP 400), False if ours (HTTP 500).
    """

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: str | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    error: str | None = None
    invalid: bool = False
    loop_logprobs: list[list[float]] | None = None
    num_loops: int = 0
    loop_tokens: list[list[int]] | None = None


class CacheUse(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What running sequences hold of the cache. A block that several share counts once.

    Attributes:
        blocks: per loop; loop 0's are contexts, a later loop's are its windows, or contexts, too.
        sequential_blocks: what loop 0's blocks would be if every loop of their sequences kept its own.
        carry_slots: per loop but the last, H vectors on their way to the next loop.
        tokens: of the running sequences, prompts and answers.
    """

    blocks: list[int] = []
    sequential_blocks: int = 0
    carry_slots: list[int] = []
    tokens: int = 0


class LoopSignals(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What loops did in the decode passes that were sampled; running totals, one per loop. The first loop's stay 0.

    Attributes:
        tokens: positions looked at, with this loop and the one before it.
        gates: sum over them of the mean gate over layers and heads; empty if the model has none.
        changes: sum of ``‖H[l] - H[l-1]‖ / ‖H[l-1]‖``.
        token_changes: how many had another most probable token than in the loop before.
    """

    tokens: list[int] = []
    gates: list[float] = []
    changes: list[float] = []
    token_changes: list[int] = []


class DecodeTimes(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Running totals of decode passes, by what they took and what the other execution would have taken.

    Attributes:
        passes: those counted: one row per loop and sequence, nothing else, and a ratio that is known.
        parallel_seconds: with all loops of a sequence in one pass; what ran, or an estimate if that was sequential.
        sequential_seconds: with one loop per pass; likewise.
        shadow_passes: those that ran both ways.
        shadow_parallel_seconds, shadow_sequential_seconds: of these, as measured.
    """

    passes: int = 0
    parallel_seconds: float = 0.0
    sequential_seconds: float = 0.0
    shadow_passes: int = 0
    shadow_parallel_seconds: float = 0.0
    shadow_sequential_seconds: float = 0.0


class StepShape(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one step computed.

    Attributes:
        phase: "prefill", "decode", "mixed"; "" if there was nothing to compute.
        rows: by loop, without those of requests that failed.
    """

    phase: str = ""
    rows: list[int] = []


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """State and running totals of the engine after a step. `*_total` only ever grow.

    Attributes:
        blocks_used: blocks held by live sequences; `blocks_cached` are reusable but evictable. By group (see
            `kv_arithmetic.BlockGroup`): `shared_blocks_used`, `window_blocks_used`, `own_blocks_used`.
        rows_total: rows computed so far, one count per loop.
        steps_total: forward passes.
        step_seconds: wall time of this step, 0 when idle (measured by the host; the core has no clock).
        admitted: ids of requests that left the queue for the first time in this step.
        isolated_errors_total: requests ended by an exception of ours that was kept from hurting others.
        decode: what decode passes took, and would have taken.
        step: what this step computed.
        cache: what running sequences hold.
        signals: what the loops did, in a sample.
    """

    running: int = 0
    waiting: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    blocks_cached: int = 0
    shared_blocks_used: int = 0
    window_blocks_used: int = 0
    own_blocks_used: int = 0
    preemptions_total: int = 0
    prefix_query_tokens_total: int = 0
    prefix_hit_tokens_total: int = 0
    steps_total: int = 0
    rows_total: list[int] = []
    step_seconds: float = 0.0
    admitted: list[str] = []
    isolated_errors_total: int = 0
    decode: DecodeTimes = DecodeTimes()
    step: StepShape = StepShape()
    cache: CacheUse = CacheUse()
    signals: LoopSignals = LoopSignals()


class StepOutputs(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Everything one engine step produced."""

    outputs: list[RequestOutput]
    stats: EngineStats


class CalibratedCell(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One crowd of a calibration: medians over its pairs of measurements.

    Attributes:
        sequences: that decode at once, all loops each.
        context: positions per sequence.
        parallel_seconds: of one pass with all loops.
        sequential_seconds: of R passes with one loop each.
        ratio: the second divided by the first, pair by pair.
        pairs: measurements that counted.
    """

    sequences: int
    context: int
    parallel_seconds: float
    sequential_seconds: float
    ratio: float
    pairs: int


class Calibrated(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """A calibration has ended.

    Attributes:
        cells: all that is known, by sequences and context; what this calibration measured is new.
        measured: how many of them it measured.
        seconds: that it took, without the requests in between.
    """

    cells: list[CalibratedCell]
    measured: int
    seconds: float


class BlockState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Where blocks are.

    Attributes:
        state: "held" by running sequences, "cached" for reuse and evictable, or "free".
        loop: whose positions are in them; None if they are free.
        blocks: how many are so.
    """

    state: Literal["held", "cached", "free"]
    loop: int | None
    blocks: int


class CacheMap(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """All blocks of the pool, in the order of their ids.

    Attributes:
        blocks_per_cell: how many blocks one cell stands for; the last may stand for fewer.
        states: everything that a block can be, with exact counts.
        cells: per cell, the index in `states` of what most of its blocks are; of equally many, the first.
    """

    blocks_per_cell: int
    states: list[BlockState]
    cells: bytes


class CacheSizes(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Bytes of what a cache is made of, on all ranks together.

    Attributes:
        kv_block: K and V of one block, which is of one loop.
        block_hidden: the H that is kept beside each block for the prefix cache; 0 if none is.
        carry_slot: the H in one slot.
        window_blocks: most blocks that one loop's window holds while its sequence decodes; 0 without windows.
        has_windows: later loops keep windows, and not their whole contexts.
    """

    kv_block: int
    block_hidden: int
    carry_slot: int
    window_blocks: int
    has_windows: bool = True


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Weights are loaded and the first request may come.

    Attributes:
        max_model_len: most prompt + generated tokens of a sequence.
        vocab_size: width of the embedding; valid token ids are below it.
        kv_bytes_per_token: K/V bytes per token of context, as this cache keeps it.
        kv_bytes_per_token_sequential: what a cache with every loop's whole context would need.
        kv_bytes_per_sequence: windows and carry, a constant per running sequence.
        batch_invariant: whether a request got the same bits alone and in a crowd when the engine tried at its start;
            None if it did not try.
        cache: what its parts cost; None if that isn't known.
    """

    protocol_version: int
    max_model_len: int
    vocab_size: int
    num_parameters: int
    num_loops: int
    num_blocks: int
    block_size: int
    execution: str
    kv_bytes_per_token: int
    kv_bytes_per_token_sequential: int
    kv_bytes_per_sequence: int
    batch_invariant: bool | None = None
    cache: CacheSizes | None = None


class EngineFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine can't start or go on; the process exits after sending this.

    Attributes:
        message: one clear line.
        model_error: True when the model directory is at fault (the server exits with code 2, no respawn).
    """

    message: str
    model_error: bool


ToEngine = Request | Abort | Calibrate | DescribeCache | Shutdown
FromEngine = EngineReady | StepOutputs | Calibrated | CacheMap | EngineFailed
