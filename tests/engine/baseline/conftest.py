"""The pools of these tests are small: calibrations may write to all of them, but where a test says otherwise."""

import pytest

import engine.baseline.baseline as baseline_module


@pytest.fixture(autouse=True)
def whole_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_module, "SHARE_WRITTEN", 1)
