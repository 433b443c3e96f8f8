"""A plan's memory against the engine's own figures, and against the scheduler that has to live in it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import load_config, parse_config
from engine.loading import load_model
from engine.options import EngineOptions
from planning.devices import A100, H100, Device
from planning.errors import PlanError
from planning.formats import formats_of
from planning.loopcoder import CONFIG
from planning.memory import LAYOUTS, CacheOptions, MemoryModel, check_ranks
from planning.shape import shape_of
from scheduler.loop_layout import LoopCache, LoopLayout
from scheduler.scheduler import Scheduler, SchedulerLimits
from scheduler.sequence import Sequence
from tests.engine.test_config import RELEASED

DEMO = Path(__file__).parents[2] / "models" / "demo"
GPU_FORMATS = formats_of(CONFIG, False, "auto", "auto", "none")


def model_on(device: Device, ranks: int = 1, loops: int = 2, **options: object) -> MemoryModel:
    config = replace(CONFIG, loops=replace(CONFIG.loops, num_loops=loops))
    return MemoryModel(config, GPU_FORMATS, device, ranks, CacheOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("cache_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_it_is_what_the_engine_reports_for_the_demo_model(cache_dtype: str, prefix_caching: bool) -> None:
    options = EngineOptions(
        model_dir=str(DEMO),
        device="cpu",
        kv_cache_dtype=cache_dtype,  # type: ignore[arg-type]
        kv_cache_memory=20_000_000,
        prefix_caching=prefix_caching,
        max_num_seqs=64,
        self_check=False,
    )
    ready = load_model(options, show_progress=False).ready
    config = load_config(DEMO, {})
    formats = formats_of(config, True, "auto", cache_dtype, "none")  # type: ignore[arg-type]
    cpu = Device("CPU", 1e10, 1e11, 8e9, is_cpu=True)
    model = MemoryModel(
        config, formats, cpu, 1, CacheOptions(memory=20_000_000, prefix_caching=prefix_caching)
    )
    plan = model.plan(1024)
    assert plan.kv_per_token["shared"] == ready.kv_bytes_per_token
    assert plan.kv_per_token["sequential"] == ready.kv_bytes_per_token_sequential
    assert plan.windows_and_carry == ready.kv_bytes_per_sequence
    assert model.num_blocks == ready.num_blocks


def test_weights_by_hand() -> None:
    # 7,615,749,680 parameters in bfloat16; over two ranks the embedding of 76,800 × 5,120 is there twice.
    assert model_on(A100).weights_per_rank == 2 * 7_615_749_680
    embedding = 2 * 76800 * 5120
    assert model_on(A100, 2).weights_per_rank == embedding + (2 * 7_615_749_680 - embedding) // 2
    tied = replace(CONFIG, tie_word_embeddings=True)
    one = MemoryModel(tied, GPU_FORMATS, A100, 1, CacheOptions()).weights_per_rank
    assert one == 2 * 7_615_749_680 - embedding
    assert (
        MemoryModel(tied, replace(GPU_FORMATS, own_head=True), A100, 1, CacheOptions()).weights_per_rank
        == one + embedding
    )


def test_sequences_by_hand() -> None:
    # (80e9 - 2 × 7,615,749,680) × 0.85 in blocks of 16 × 56 KiB and an H of 10 KiB. 8,192 tokens are 512 blocks; a
    # window of 64 takes 5, or 69 in chunks of 1,024 rows; two blocks are kept free per sequence.
    blocks = int((80e9 - 2 * 7_615_749_680) * 0.85) // (16 * 56 * 1024 + 10 * 1024)
    assert model_on(A100).num_blocks == blocks
    assert model_on(A100).fitting(8192, "shared") == 1 + (blocks - 512 - 69) // (512 + 5 + 2)
    pool = model_on(A100).cache_per_rank
    assert model_on(A100).fitting(8192, "sequential") == pool // (8192 * 112 * 1024)
    assert model_on(A100).fitting(8192, "one_loop") == pool // (8192 * 56 * 1024)


def test_the_shape_on_the_pages_is_the_released_models() -> None:
    config = parse_config(RELEASED)
    assert replace(CONFIG, eos_token_ids=config.eos_token_ids, bos_token_id=config.bos_token_id) == config
    assert shape_of(config, GPU_FORMATS).kv_elements * 2 == 56 * 1024


@given(
    loops=st.integers(1, 4),
    window=st.sampled_from([0, 5, 16, 64]),
    block_size=st.sampled_from([4, 16]),
    context=st.integers(20, 300),
    rows=st.sampled_from([40, 200]),
    room=st.integers(1, 12),
    cache=st.sampled_from(LoopCache),
)
@settings(max_examples=60, deadline=None)
def test_so_many_sequences_really_run_at_once(
    loops: int, window: int, block_size: int, context: int, rows: int, room: int, cache: LoopCache
) -> None:
    """The scheduler takes up all that fit, computes them and preempts none; of longer contexts twice as many don't."""
    layout = LoopLayout(loops, 1, window, 2, block_size, cache)
    memory = room * layout.blocks_for(context, rows)
    model = model_of(layout, memory, rows)
    fitting = min(model.fitting(context, "shared"), rows // loops)
    assert running_at_once(layout, model.num_blocks, rows, context, fitting) == (fitting, 0)
    if model.fitting(context, "shared") <= rows // (2 * loops) and context > 3 * (window + block_size):
        more = 2 * fitting + 2
        assert running_at_once(layout, model.num_blocks, rows, context, more)[0] < more


def model_of(layout: LoopLayout, num_blocks: int, rows: int) -> MemoryModel:
    config = replace(
        CONFIG,
        num_layers=layout.num_layers,
        loops=replace(CONFIG.loops, num_loops=layout.num_loops, window=layout.window, cache=layout.cache),
    )
    options = CacheOptions(layout.block_size, rows, prefix_caching=False)
    one = MemoryModel(config, GPU_FORMATS, H100, 1, options)
    return replace(one, options=replace(options, memory=num_blocks * one.block_bytes))


def running_at_once(
    layout: LoopLayout, num_blocks: int, rows: int, context: int, number: int
) -> tuple[int, int]:
    """(sequences that run when nothing more can be computed, preemptions)."""
    limits = SchedulerLimits(number, max(rows, number * layout.num_loops), prefix_caching=False)
    scheduler = Scheduler(layout, limits, num_blocks)
    for index in range(number):
        scheduler.add(Sequence(str(index), [1] * context, context, layout))
    while (step := scheduler.schedule()).segments:
        scheduler.commit(step, {})
    return len(scheduler.running), scheduler.totals.preemptions


@given(context=st.integers(1, 131072), loops=st.integers(1, 6), ranks=st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=100, deadline=None)
def test_what_must_hold_of_any_plan(context: int, loops: int, ranks: int) -> None:
    small, large = model_on(A100, ranks, loops), model_on(replace(A100, memory=160e9), ranks, loops)
    for layout in LAYOUTS:
        assert small.fitting(context, layout) <= large.fitting(context, layout)
        assert small.fitting(context + 1, layout) <= small.fitting(context, layout)
        if ranks < 8:
            assert small.fitting(context, layout) <= model_on(A100, 2 * ranks, loops).fitting(context, layout)
    assert small.fitting(context, "sequential") == small.fitting(context, "one_loop") // loops
    assert small.fitting(context, "shared") <= small.fitting(context, "one_loop")
    if loops > 1 and context >= 8192:
        assert small.fitting(context, "shared") >= small.fitting(context, "sequential")


def test_weights_that_do_not_fit_leave_no_cache() -> None:
    model = model_on(replace(A100, memory=10e9))
    assert model.cache_per_rank == model.fitting(128, "shared") == 0
    assert model_on(A100, memory=int(79e9)).cache_per_rank == 0
    assert model_on(A100, memory=int(8e9)).cache_per_rank == 8e9
    assert model_on(A100, 2, memory=int(8e9)).cache_per_rank == 4e9


def test_only_whole_heads_are_shared_out() -> None:
    check_ranks(CONFIG, 8)
    with pytest.raises(PlanError, match="8 KV heads"):
        check_ranks(CONFIG, 3)
