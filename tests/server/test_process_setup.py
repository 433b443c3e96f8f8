"""What happens to a server process on a poor machine, and when nobody reads what it says."""

import os
import resource
import subprocess
import sys

import pytest

from server.process_setup import MIN_FILES


def python(program: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", program],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


def test_a_closed_stdout_is_no_reason_to_end() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = python("from server.process_setup import say; say('one'); say('two')", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def with_files(limit: int, hard: int) -> subprocess.CompletedProcess[str]:
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {hard}))\n"
        "from server import cli\n"
        "cli.build_state = lambda settings: sys.exit(f'{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files')\n"
        "sys.exit(cli.run(['serve', '--port', '0']))\n"
    )
    return python(program)


def test_too_few_open_files_are_one_clear_line() -> None:
    done = with_files(MIN_FILES - 1, MIN_FILES - 1)
    assert done.returncode == 1
    assert done.stderr == "loopserve: the limit of open files is 63; raise it to 64 or more (ulimit -n).\n"


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 200:
        pytest.skip("this machine's own limit is lower")
    assert with_files(100, 200).stderr.strip() == "200 files"
