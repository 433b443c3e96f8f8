"""docs/results/image.md, of what one run of the tool saw."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tools.image.building import BASE, PACKAGES, Layer

_COMMAND_CHARS = 90
_PREFIX = re.compile(r"^(\|\d+ .*?)?(/bin/sh -c )?(--mount=\S+ )*(#\(nop\) )?(pip --python \S+ )?")


@dataclass(frozen=True)
class Result:
    """What a check saw."""

    name: str
    passed: bool
    text: str


def page(results: Sequence[Result], layers: Sequence[Layer], versions: Sequence[str]) -> str:
    """The page."""
    rows = "\n".join(f"| {r.name} | {'passed' if r.passed else '**failed**'} | {r.text} |" for r in results)
    sizes = "\n".join(
        f"| `{_shown(layer.made_by)}` | {layer.size / 1e6:.1f} |" for layer in layers if layer.size >= 5e4
    )
    total = sum(layer.size for layer in layers) / 1e6
    return f"""# The image, built and run

Made by `make image-check` (`tools/image`), with {", ".join(versions)}.
No Docker engine and no registry were at hand. So:

* **The Dockerfile's target `cpu` was really built**, step by step, by `buildah bud --isolation chroot`, on a
  stand-in for `python:3.11-slim-bookworm`: Debian bookworm from debootstrap with
  {PACKAGES.replace(",", ", ")} (`{BASE}`).
  torch was the CPU build of the pinned version from a local file: `TORCH_INDEX`'s default was not reached.
* **Its root file system was really run** by runc with what the image's configuration says (user, environment, entry
  point, working directory, health check), a read-only root, no capabilities, no new privileges, and the host's network.
* **Not tried**: Docker itself and BuildKit; Python's own base image; the target `cuda`, neither built nor run; Compose
  and Kubernetes, whose files are only validated (`tests/deploy`).

| check | | what was seen |
|---|---|---|
{rows}

Times are of one run each, on a machine that others were using; CPU seconds say more than seconds.

## Size of `cpu`

Megabytes (10^6 bytes) of each layer before compression, as in the store. The first is the stand-in.

| layer | MB |
|---|---|
{sizes}
| all | {total:.1f} |
"""


def _shown(command: str) -> str:
    """What a step ran, without build arguments, shell and mounts in front of it."""
    text = _PREFIX.sub("", " ".join(command.split()))
    text = text if len(text) <= _COMMAND_CHARS else text[:_COMMAND_CHARS] + " …"
    return text.replace("|", "\\|")
