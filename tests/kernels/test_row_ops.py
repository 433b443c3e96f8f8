"""Row operations: right, and bit-equal for a row whatever the batch, also for odd widths."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from kernels import row_ops

WIDTHS = [1, 5, 48, 63, 256, 1000]


def operations(width: int):
    weight, bias = torch.randn(width), torch.randn(4)
    head_weight = torch.randn(4, width)
    return {
        "rms_norm": (
            (width,),
            lambda x: row_ops.rms_norm(x, weight, 1e-5),
            lambda x: functional.rms_norm(x, (width,), weight, 1e-5),
        ),
        "add_rms_norm": (
            (2, width),
            lambda x: torch.stack(row_ops.add_rms_norm(x[:, 0].clone(), x[:, 1].clone(), weight, 1e-5), 1),
            lambda x: torch.stack([x.sum(1), functional.rms_norm(x.sum(1), (width,), weight, 1e-5)], 1),
        ),
        "silu_mul": (
            (2 * width,),
            row_ops.silu_mul,
            lambda x: functional.silu(x[:, :width]) * x[:, width:],
        ),
        "hidden_gates": (
            (width,),
            lambda x: row_ops.hidden_gates(x, weight, head_weight, bias, 1e-5),
            lambda x: torch.sigmoid(functional.rms_norm(x, (width,), weight, 1e-5) @ head_weight.T + bias),
        ),
        "query_gates": (
            (4, width),
            lambda x: row_ops.query_gates(x, head_weight, bias),
            lambda x: torch.sigmoid((x * head_weight).sum(-1) + bias),
        ),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "silu_mul", "hidden_gates", "query_gates"])
def test_right_and_independent_of_the_other_rows(name, width):
    torch.manual_seed(0)
    shape, actual, expected = operations(width)[name]
    x = 3 * torch.randn(301, *shape)
    everything = actual(x)
    torch.testing.assert_close(everything, expected(x), atol=1e-4, rtol=1e-5)
    for rows in (1, 2, 3, 7, 64, 300):
        assert torch.equal(actual(x[:rows]), everything[:rows])
        assert torch.equal(actual(x[-rows:].clone()), everything[-rows:])


def test_extreme_values_stay_finite():
    weight = torch.tensor([[-1000.0], [1000.0], [0.0]])
    gates = row_ops.hidden_gates(torch.ones(1, 1), torch.ones(1), weight, torch.zeros(3), 0.0)
    torch.testing.assert_close(gates, torch.tensor([[0.0, 1.0, 0.5]]), atol=1e-37, rtol=0)
    silu = row_ops.silu_mul(torch.tensor([[-1000.0, 1000.0, 1.0, 1.0]]))
    torch.testing.assert_close(silu, torch.tensor([[0.0, 1000.0]]), atol=1e-34, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_input_of_a_loop(dtype):
    torch.manual_seed(0)
    embedding, carries = torch.randn(7, 21).to(dtype), torch.randn(5, 21)
    tokens, loops, slots = (np.array(v, np.int32) for v in ([3, 3, 6, 0], [0, 2, 0, 1], [4, 4, 0, 1]))
    x = row_ops.looped_input(embedding, carries, tokens, loops, slots, 0.7, 0.3)
    assert torch.equal(x[0], embedding[3].float())
    assert torch.equal(x[2], embedding[6].float())
    torch.testing.assert_close(x[1], 0.7 * embedding[3].float() + 0.3 * carries[4])
    torch.testing.assert_close(x[3], 0.7 * embedding[0].float() + 0.3 * carries[1])


def test_rows_without_a_slot_are_not_scattered():
    target = torch.zeros(3, 2)
    row_ops.scatter_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), np.array([-1, 1], np.int32), target)
    assert target.tolist() == [[0, 0], [3, 4], [0, 0]]
