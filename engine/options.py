"""What the engine is told at start-up; travels to the engine process as one message."""

from typing import Literal

import msgspec

from engine.messages import CalibratedCell

Execution = Literal["parallel", "sequential"]
AttentionBackendName = Literal["auto", "cpu", "reference", "triton", "xformers"]
DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "float16", "bfloat16"]
CacheDtypeName = Literal["auto", "float32", "float16", "bfloat16", "fp8"]
Quantization = Literal["none", "int8", "int4"]


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
        kv_cache_memory: bytes for the block pool, of all ranks together; None takes a fraction of the free memory.
        prefix_caching: keep and reuse the cache of finished prefixes.
        attention_backend: kernels of attention and the row operations around it; "auto" is the device's fastest.
        device: "auto" takes a GPU if there is one.
        dtype: of weights and activations; "auto" takes the checkpoint's. With the CPU backend it is what weights are
            stored in, float32 or bfloat16; arithmetic is float32 there.
        kv_cache_dtype: of cached keys and values; "auto" is `dtype`, "fp8" is e4m3.
        quantization: of the layers' weights, as they are loaded; activations keep `dtype`.
        cuda_graphs: on a GPU, run decode steps as captured graphs.
        threads: compute threads, of all ranks together; None takes the machine's cores.
        self_check: try at start whether results depend on what runs beside (`engine.self_check`).
        calibration_time: seconds at start for timing parallel against sequential decode passes; 0 for none.
        calibrated: what an earlier life of this engine found; with it, the start measures nothing.
        shadow_steps: every so many decode passes, one is also run loop by loop, to compare; 0 for none.
        loop_metrics_sample: fraction of decode passes of which to report what the loops do (`engine.loop_signals`).
        tensor_parallel_size: ranks that share the model: GPUs, or processes on the CPU.
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
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    kv_cache_dtype: CacheDtypeName = "auto"
    quantization: Quantization = "none"
    cuda_graphs: bool = True
    threads: int | None = None
    tensor_parallel_size: int = 1
    self_check: bool = True
    calibration_time: float = 5.0
    calibrated: list[CalibratedCell] = []
    shadow_steps: int = 0
    loop_metrics_sample: float = 0.01
