"""What the engine is told at start-up; travels to the engine process as one message."""

from typing import Literal

import msgspec

Execution = Literal["parallel", "sequential"]
AttentionBackendName = Literal["auto", "reference", "cpu"]


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Start-up options of one engine.

    Attributes:
        model_dir: local checkpoint directory.
        model_overrides: merged over `config.json` before it is read (the knob for contested readings).
        execution: "parallel" runs every ready loop of a sequence in one pass; "sequential" puts one loop of a
            sequence in a pass (the baseline). Same tokens out.
        max_model_len: most prompt + generated tokens of a sequence; None takes the model's maximum, lowered to
            what the block pool holds.
        max_num_seqs: most sequences running at once.
        max_rows_per_step: row budget of one pass.
        block_size: tokens per cache block.
        kv_cache_memory: bytes for the block pool; None takes a fraction of the free memory.
        prefix_caching: keep and reuse the cache of finished prefixes.
        threads: compute threads; None takes the machine's cores.
    """

    model_dir: str
    model_overrides: dict[str, object] = {}
    execution: Execution = "parallel"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_rows_per_step: int = 1024
    block_size: int = 16
    kv_cache_memory: int | None = None
    prefix_caching: bool = True
    attention_backend: AttentionBackendName = "auto"
    threads: int | None = None
