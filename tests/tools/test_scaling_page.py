"""docs/scaling.md is what its generator writes, and its tables say what plans say."""

from pathlib import Path

import pytest

from planning.devices import GPUS
from tools.scaling_page import tables
from tools.scaling_page.page import page

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_what_the_script_writes() -> None:
    assert (ROOT / "docs" / "scaling.md").read_text() == page()


def test_every_link_and_file_on_it_exists() -> None:
    text = page()
    for part in text.split("](")[1:]:
        assert (ROOT / "docs" / part.partition(")")[0]).exists(), part
    for name in (
        "deploy/ray_serve.yaml",
        "deploy/kubernetes/examples/inference-pool.yaml",
        "server/affinity.py",
    ):
        assert name in text
        assert (ROOT / name).exists()


@pytest.mark.parametrize(("gpu", "context"), [("a100", 8192), ("h100", 2048), ("b200", 131072)])
def test_users_are_the_most_that_fit_and_are_in_time(gpu: str, context: int) -> None:
    device = GPUS[gpu]
    count, why = tables.users(device, context)
    assert count > 0
    now, more = (tables.planned(device, context, number) for number in (count, count + 1))
    limit = tables.STEP_MILLISECONDS / 1e3
    assert now.fits
    assert now.decode.parallel.seconds <= limit
    if why == "memory":
        assert not more.fits
    else:
        assert more.fits
        assert more.decode.parallel.seconds > limit


def test_a_gpu_that_is_too_small_gets_a_dash() -> None:
    row = next(line for line in tables.fitting_table().splitlines() if line.startswith("| L4 "))
    assert row.endswith(" | – |")
