"""Each broken promise is found in the records and said on the page; records outlive a run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tools.reliability import crash, crash_page, drain, key_timing, overload, soak, soak_page, timing
from tools.reliability.overload import Phase, Round
from tools.reliability.results import Kept
from tools.reliability.server_process import API, ENGINE

PHASE = Phase(
    name="10×",
    rate=9.0,
    requests=9,
    right=5,
    refused=4,
    bare=0,
    lost=[],
    goodput=100.0,
    first_token=(0.1, 0.2, 0.3),
    gap=(0.01, 0.02),
    health=(0.001, 0.002),
    retry_after=(1, 2),
    recovery=1.0,
)
CAPACITY = dataclasses.replace(PHASE, name="capacity", recovery=None)
RESTART = drain.Restart(0, 1.0, 5.0, 3, drain.Tally(right=9, streamed=4, tries=10, accepted=9, refused=1))
CRASH = crash.Crash(
    kind="kill -9",
    under_way=2,
    errors=[0.1, 0.2],
    finished=0,
    refused=3,
    silent=[],
    bare=0,
    ready=5.0,
    exit=None,
    exit_code=None,
    right_after=4,
    leaks="",
)
GAVE_UP = dataclasses.replace(CRASH, ready=None, exit=2.0, exit_code=70, right_after=0)
SEEN = soak.Seen(100.0, 20, 5, 1.0)
SAMPLE = soak.Sample(
    seconds=0.0,
    processes={API: SEEN, ENGINE: SEEN},
    blocks={"used": 0, "cached": 5, "free": 5},
    restarts=0,
    requests={"whole": 3},
    faults=[],
    first_tokens=[0.1],
    whole=[0.2],
)


def _samples(growth: float = 0.0, **last: Any) -> list[soak.Sample]:
    """An hour; `growth` of the API process in MiB."""
    samples = []
    for minute in range(61):
        seen = dataclasses.replace(SEEN, rss=100 + growth * minute / 60)
        at = {"seconds": 60.0 * minute, "processes": {API: seen, ENGINE: SEEN}}
        samples.append(dataclasses.replace(SAMPLE, **at))
    return [*samples[:-1], dataclasses.replace(samples[-1], **{"leftovers": "", **last})]


def _pairs(known: float, cached: int = 0) -> list[timing.Pair]:
    """Times across tenants that are alike but for `known` seconds, and a control that shows."""
    across = [timing.Pair(False, 0.1 + i % 10 / 100 + known, 0.1 + i % 10 / 100, cached) for i in range(100)]
    return across + [timing.Pair(True, 0.1, 0.2, 9) for _ in range(20)]


def _times(leak: float, control: float = 1e-4) -> list[key_timing.Sample]:
    return [
        key_timing.Sample(server, 1e-3 + i % 10 * 1e-5, 1e-3 + i % 10 * 1e-5 + more)
        for server, more in ((key_timing.OURS, leak), (key_timing.CONTROL, control))
        for i in range(100)
    ]


def _round(**changes: Any) -> list[Round]:
    return [Round([CAPACITY, dataclasses.replace(PHASE, **changes)], "")]


def _restart(**changes: Any) -> list[drain.Restart]:
    return [RESTART, dataclasses.replace(RESTART, **changes)]


def _crash(of: crash.Crash = CRASH, **changes: Any) -> list[crash.Crash]:
    return [CRASH, GAVE_UP, dataclasses.replace(of, **changes)]


def _changed_sample(**changes: Any) -> list[soak.Sample]:
    samples = _samples()
    return [*samples[:-1], dataclasses.replace(samples[-1], **changes)]


MORE_FILES = {API: dataclasses.replace(SEEN, files=23), ENGINE: SEEN}
OPTIONS: dict[str, str | int | float] = {"seed": 1, "timeout": 60.0, "heartbeat_timeout": 2.0, "tokens": 256}
PROOFS: dict[str, Any] = {
    "overload": (Round, overload.problems, overload.page),
    "drain": (drain.Restart, drain.problems, drain.page),
    "crash": (crash.Crash, lambda records: crash_page.problems(records, 2.0), crash_page.page),
    "soak": (soak.Sample, soak_page.problems, soak_page.page),
    "timing": (timing.Pair, lambda records: timing.problems(records, 1), timing.page),
    "key-timing": (key_timing.Sample, key_timing.problems, key_timing.page),
}
FINE: list[tuple[str, list[Any]]] = [
    ("overload", _round()),
    ("drain", _restart()),
    ("crash", [*_crash(), dataclasses.replace(GAVE_UP, kind=crash.API, exit_code=-9, leaks="files left: x")]),
    ("soak", _samples()),
    ("timing", _pairs(0.0)),
    ("key-timing", _times(0.0)),
]
BROKEN: list[tuple[str, list[Any], str]] = [
    ("overload", _round(goodput=90.0), "goodput is 90% of the peak"),
    ("overload", _round(bare=2), "2 refusals without Retry-After"),
    ("overload", _round(lost=["no end in time"]), "no end in time"),
    ("overload", _round(recovery=6.0), "recovery took 6.0 s"),
    ("overload", [Round([CAPACITY, PHASE], "blocks = 1")], "blocks = 1 afterwards"),
    ("drain", _restart(exit_code=1), "exit code 1"),
    ("drain", _restart(exit_code=None), "exit code None"),
    ("drain", _restart(tally=drain.Tally(lost=["wrong answer: 'x'"])), "wrong answer: 'x'"),
    ("crash", _crash(silent=["no end in time"]), "no end in time"),
    ("crash", _crash(bare=1), "1 refusals without Retry-After"),
    ("crash", _crash(ready=None), "neither ready again nor ended"),
    ("crash", _crash(right_after=0), "no right answer after the restart"),
    ("crash", _crash(GAVE_UP, exit_code=0), "exit code 0"),
    ("crash", _crash(leaks="blocks = 1"), "blocks = 1"),
    ("crash", _crash(errors=[0.1, 1.5]), "a typed error took 1.50 s"),
    ("crash", _crash(kind="stop", errors=[4.5]), "a typed error took 4.50 s"),
    ("soak", _samples(growth=5.0), "memory grows by 5.00"),
    ("soak", _changed_sample(faults=["tool call: 500"]), "tool call: 500"),
    ("soak", _changed_sample(leftovers=None), "did not come to its end"),
    ("soak", _changed_sample(leftovers="blocks = 1"), "blocks = 1"),
    ("soak", _changed_sample(restarts=1), "1 restarts of the engine"),
    ("soak", _changed_sample(processes=MORE_FILES), "20 files before the load, 23 after"),
    ("soak", _changed_sample(processes={API: SEEN}), "there is no engine process in the end"),
    ("timing", _pairs(-0.1), "AUC 1.000"),
    ("timing", _pairs(0.1), "AUC 0.000"),
    ("timing", _pairs(0.0, cached=5), "100 answers say that tokens were found"),
    ("timing", [*_pairs(0.0)[:100], timing.Pair(True, 0.1, 0.1, 0)], "the control shows nothing"),
    ("key-timing", _times(1e-4), "leading characters show"),
    ("key-timing", _times(0.0, control=0.0), "the control shows nothing"),
]


@pytest.mark.parametrize(("name", "records"), FINE, ids=[name for name, _ in FINE])
def test_kept_promises_and_their_page(name: str, records: list[Any], tmp_path: Path) -> None:
    kind, problems, page = PROOFS[name]
    kept: Kept[Any] = Kept(tmp_path / "kept", kind, OPTIONS)
    for record in records:
        kept.add(record)
    again: Kept[Any] = Kept(tmp_path / "kept", kind, OPTIONS)
    assert again.records == records
    assert problems(again.records) == []
    page(again, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "\nNone.\n" in text
    assert f"    make {name}\n" in text
    for part in ("commit", "cores", "seed 1", "Python"):
        assert part in text


@pytest.mark.parametrize(("name", "records", "problem"), BROKEN, ids=[f"{n}: {p}" for n, _, p in BROKEN])
def test_broken_promises(name: str, records: list[Any], problem: str, tmp_path: Path) -> None:
    kind, problems, page = PROOFS[name]
    assert any(problem in found for found in problems(records))
    kept: Kept[Any] = Kept(tmp_path / "kept", kind, OPTIONS)
    for record in records:
        kept.add(record)
    page(kept, tmp_path / "page.md")
    assert problem in (tmp_path / "page.md").read_text()


def test_records_of_other_options_do_not_count(tmp_path: Path) -> None:
    for seed in (1, 2, 2):
        Kept(tmp_path / "kept", drain.Restart, {"seed": seed}).add(RESTART)
    assert [len(Kept(tmp_path / "kept", drain.Restart, {"seed": seed}).records) for seed in (1, 2, 3)] == [
        1,
        2,
        0,
    ]
