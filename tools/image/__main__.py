"""`python -m tools.image`: build the image with buildah, run it under runc, write docs/results/image.md. As root.

Needs Debian's buildah, runc and debootstrap. Options after `--` go to `buildah bud`, for what this machine's pip needs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.image.building import Buildah
from tools.image.checks import CHECKS, Bench, CheckError
from tools.image.page import Result, page

MIRROR = "http://deb.debian.org/debian"


def main(arguments: list[str]) -> int:
    """0 if every check held."""
    own, options = _split(arguments)
    parser = argparse.ArgumentParser(prog="python -m tools.image", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/image"), help="images and base; kept")
    parser.add_argument("--mirror", default=MIRROR, help="Debian mirror of the base")
    parser.add_argument("--page", type=Path, help="where to write the results")
    given = parser.parse_args(own)
    store = given.store.resolve()
    store.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(store)
    buildah.make_base(given.mirror)
    buildah.build(options)
    image, container = buildah.mount()
    try:
        with tempfile.TemporaryDirectory(prefix="image-check-") as directory:
            Path(directory).chmod(0o755)
            results = _run_all(Bench(image, Path(directory)))
    finally:
        buildah("rm", container)
    text = page(results, buildah.layers(), _versions())
    if given.page is not None:
        given.page.write_text(text, encoding="utf-8")
    return 0 if all(result.passed for result in results) else 1


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _run_all(bench: Bench) -> list[Result]:
    results = []
    for name, check in CHECKS.items():
        try:
            result = Result(name, True, check(bench))
        except (CheckError, OSError, subprocess.SubprocessError) as failure:
            result = Result(name, False, " ".join(str(failure).split()))
        print(f"{'passed' if result.passed else 'FAILED'}  {name}: {result.text}", flush=True)
        results.append(result)
    return results


def _versions() -> list[str]:
    commands = (("buildah", "--version"), ("runc", "--version"))
    outputs = [
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout for command in commands
    ]
    return [output.splitlines()[0].partition(" (")[0] for output in outputs]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
