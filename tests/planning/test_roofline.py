"""The roofline's arithmetic against figures worked out by hand and against what must hold of any model."""

import pytest

from planning.devices import A100, GPUS, H100, Device
from planning.loopcoder import SHAPE
from planning.roofline import (
    Cost,
    Deployment,
    context_attention,
    decode_seconds,
    free_until,
    head,
    prefill_seconds,
    products,
    ridge_rows,
)
from planning.shape import Shape

TINY = Shape(hidden=4, layers=2, heads=2, kv_heads=1, head_dim=3, intermediate=5, vocab=7, window=2)


def test_the_shape_has_the_released_models_parameters() -> None:
    shape = SHAPE
    norms = shape.hidden * (2 * shape.layers + 1)
    query_gate = shape.heads * (shape.head_dim + 1) * shape.layers
    hidden_gate = (shape.heads * (shape.hidden + 1) + shape.hidden) * shape.layers
    matrices = shape.layers * shape.layer_weights + 2 * shape.vocab * shape.hidden
    assert 7_615_749_680 in (matrices + norms + query_gate, matrices + norms + hidden_gate)
    assert shape.kv_elements * 2 == 56 * 1024
    assert (shape.window + 1) * shape.kv_elements * 2 == pytest.approx(3.55 * 2**20, rel=2e-3)


def test_products_by_hand() -> None:
    # q 4x6, k and v 4x3, o 6x4, gate, up and down 4x5 each: 24 + 24 + 24 + 60 elements; the gate 2x4.
    assert TINY.layer_weights == 132
    activations = 6 * 4 + 2 * 6 + 2 * 3 + 3 * 5
    one = products(TINY, 10, 1)
    assert one == Cost(2 * 2 * (132 + 2 * 10 * activations), 2 * 2 * 10 * 132)
    two = products(TINY, 10, 2)
    assert two.flops == 2 * 2 * 10 * 140
    assert head(TINY, 3) == Cost(2 * (28 + 12) + 4 * 21, 2 * 3 * 28)


def test_attention_by_hand() -> None:
    # 5 keys, each 2 (k, v) x 2 layers x 3 elements x 2 bytes; 4 FLOPs per element of a query and key.
    assert context_attention(TINY, 6, 2, 5) == Cost(2 * 5 * 24, 6 * 5 * 4 * 2 * 2 * 3)


def test_a_stage_takes_the_longer_of_its_two_times() -> None:
    gpu = Device("toy", bandwidth=10.0, flops=100.0, memory=1.0)
    assert Cost(10, 50).seconds(gpu) == 1.0
    assert Cost(1, 50).seconds(gpu) == 0.5
    assert ridge_rows(A100, SHAPE) == pytest.approx(153, abs=0.1)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_what_must_hold(gpu: Device) -> None:
    def time(loops: int, execution: str, batch: int, context: int) -> float:
        return decode_seconds(SHAPE, gpu, loops, execution, batch, context)  # type: ignore[arg-type]

    for batch in (1, 7, 64, 256):
        for context in (1, 1024, 131072):
            assert time(1, "sequential", batch, context) == time(1, "parallel", batch, context)
            for loops in (2, 3):
                parallel, sequential = (
                    time(loops, mode, batch, context) for mode in ("parallel", "sequential")
                )
                assert time(loops - 1, "parallel", batch, context) < parallel < sequential
                assert sequential < loops * parallel
            assert time(2, "parallel", batch, context) < time(2, "parallel", batch + 1, context)
            assert time(2, "parallel", batch, context) < time(2, "parallel", batch, context + 1)
    assert time(2, "parallel", 1, 1024) < 1.01 * time(1, "parallel", 1, 1024)


def test_the_second_loop_stops_being_free_near_half_the_ridge() -> None:
    for gpu in (A100, H100):
        batch = free_until(Deployment(SHAPE, gpu), 2, 1024)
        assert batch is not None
        half = ridge_rows(gpu, SHAPE) / 2
        assert half < batch < 1.4 * half
    assert free_until(Deployment(SHAPE, H100), 2, 131072) is None


def test_prefill_from_the_tail_costs_little_more_than_one_loop() -> None:
    one, tail, everywhere = (
        prefill_seconds(SHAPE, A100, loops, 32768, from_tail, 8192)
        for loops, from_tail in ((1, True), (2, True), (2, False))
    )
    assert one < tail < 1.1 * one
    assert 1.9 * one < everywhere < 2.1 * one
