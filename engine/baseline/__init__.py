"""What the sequential loop would take here: calibrated, estimated per decode pass, checked by shadow passes.

docs/operations.md, "The sequential loop, live", says what the numbers mean. `EngineCore` has no clock; whatever is
measured is measured here, and a core without a `Baseline` (a simulation) measures nothing.
"""
