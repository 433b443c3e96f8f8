"""The parts of a step add up, and a product's time is a product's."""

import time

from benchmarks.step_parts import OTHER, PRODUCTS, PartTimes, measure, watch
from engine.core import EngineCore
from engine.options import EngineOptions
from tests.make_checkpoint import make_checkpoint, random_config


def test_parts_are_told_apart(tmp_path):
    make_checkpoint(tmp_path / "model", random_config(max_position_embeddings=512), seed=1)
    core, times = (
        EngineCore.load(EngineOptions(model_dir=str(tmp_path / "model"), calibration_time=0), False),
        PartTimes(),
    )
    model, slow = core.model.runner.model, 0.005
    head = model.weights.head

    def slow_head(x):
        time.sleep(slow)
        return head(x)

    object.__setattr__(model.weights, "head", slow_head)
    watch(model, times)
    spent = measure(core, times, batch=2)
    assert spent[PRODUCTS] >= slow * 1000
    assert 0 < spent["attend"] < spent[PRODUCTS]
    assert spent[OTHER] > 0
    assert not core.has_work
