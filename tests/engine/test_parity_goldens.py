"""The engine against logits that independent implementations gave (`make parity` renews them)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.harness import saved
from tools.parity import ours
from tools.parity.cases import CASES
from tools.parity.goldens import checksum

ATOL = 1e-4
GOLDENS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "goldens/parity.json").read_text(encoding="utf-8")
)
NAMED = {(golden["family"], golden["title"]): golden for golden in GOLDENS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_logits_are_theirs(case):
    golden = NAMED[case.family, case.title]
    model = saved(case.config, case.seed)
    assert checksum(model.tensors) == pytest.approx(golden["weights"]), "the seed gives other weights by now"
    expected = np.array(golden["logits"])
    for logits in (ours.whole(model.path, golden["tokens"]), ours.one_by_one(model.path, golden["tokens"])):
        found = logits[golden["positions"]][:, golden["ids"]]
        np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def test_there_is_a_golden_of_every_case():
    assert list(NAMED) == [(case.family, case.title) for case in CASES]
    assert all(np.ptp(golden["logits"]) > 1 for golden in GOLDENS)
