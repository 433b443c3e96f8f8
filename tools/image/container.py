"""Runs an image's root file system under runc, Docker's own runtime, with everything locked.

No capabilities, no new privileges, read-only root. What is run, as whom, with which environment and where is what the
image says. The network is the host's, so that no bridge has to be made.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RUNTIME = ("runc",)
STOP_S = 60.0
EXEC_S = 30.0


@dataclass(frozen=True)
class Image:
    """Where an image is mounted, and its configuration in Docker's words."""

    root: Path
    config: dict[str, object]

    def strings(self, name: str) -> list[str]:
        """A list of the configuration, empty if it isn't there."""
        found = self.config.get(name) or []
        assert isinstance(found, list)
        return [str(value) for value in found]

    def text(self, name: str) -> str:
        """A string of the configuration, empty if it isn't there."""
        return str(self.config.get(name) or "")

    def health_command(self) -> list[str]:
        """What HEALTHCHECK runs.

        Raises:
            ValueError: it isn't in exec form, so it would need a shell.
        """
        health = self.config.get("Healthcheck")
        test = health.get("Test") if isinstance(health, dict) else None
        if not isinstance(test, list) or test[:1] != ["CMD"]:
            raise ValueError(f"HEALTHCHECK is {health}")
        return [str(word) for word in test[1:]]


@dataclass(frozen=True)
class How:
    """What differs between two runs of an image."""

    user: int | None = None
    """Other uid than the image's, as OpenShift gives; its group is 0."""
    cache: Path | None = None
    """Directory mounted at /cache; None leaves it as read-only as the rest."""
    tmp: bool = True
    """Whether /tmp is a tmpfs."""
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files mounted read-only, by their place inside."""


def bundle_config(image: Image, how: How) -> dict[str, object]:
    """The runtime's config.json."""
    uid, gid = (int(part) for part in image.text("User").split(":"))
    settings = dict(value.split("=", 1) for value in image.strings("Env")) | dict(how.environment)
    namespaces = ["pid", "mount", "ipc", "uts"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid if how.user is None else how.user, "gid": gid},
            "args": [*image.strings("Entrypoint"), *(how.arguments or image.strings("Cmd"))],
            "env": [f"{name}={value}" for name, value in settings.items()],
            "cwd": image.text("WorkingDir"),
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(image.root), "readonly": True},
        "mounts": _mounts(how),
        "linux": {"namespaces": [{"type": name} for name in namespaces]},
    }


def _mounts(how: How) -> list[dict[str, object]]:
    def tmpfs(place: str, *options: str) -> dict[str, object]:
        return {
            "destination": place,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", *options],
        }

    def bind(place: str, source: Path, mode: str) -> dict[str, object]:
        return {
            "destination": place,
            "type": "bind",
            "source": str(source),
            "options": ["bind", "nosuid", "nodev", mode],
        }

    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "nosuid", "ro"]},
        tmpfs("/dev", "mode=755", "size=65536k"),
        tmpfs("/dev/shm", "nodev", "noexec", "mode=1777", "size=65536k"),
        *([tmpfs("/tmp", "nodev", "noexec", "mode=1777")] if how.tmp else []),
        *([bind("/cache", how.cache, "rw")] if how.cache else []),
        *(bind(place, source, "ro") for place, source in how.files.items()),
    ]


class Container:
    """A running container."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen
        self._began = time.monotonic()

    def execute(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as the container's user."""
        full = (*RUNTIME, "exec", self.name, *command)
        return subprocess.run(full, capture_output=True, text=True, timeout=EXEC_S, check=False)

    def stop(self, number: str = "TERM") -> None:
        """Send a signal to process 1."""
        subprocess.run((*RUNTIME, "kill", self.name, number), check=True, capture_output=True)

    def age(self) -> float:
        """Seconds since the runtime was called."""
        return time.monotonic() - self._began

    def cpu_seconds(self) -> float:
        """CPU time of the processes that now run inside."""
        processes = psutil.Process(self._popen.pid).children(recursive=True)
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    @property
    def running(self) -> bool:
        """Whether process 1 lives."""
        return self._popen.poll() is None

    def exit_code(self) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it doesn't end.
        """
        return self._popen.wait(STOP_S)


@contextlib.contextmanager
def running(image: Image, how: How, directory: Path) -> Iterator[Container]:
    """A container for as long as the block lasts; `directory` gets the bundle and the log."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(bundle_config(image, how)), encoding="utf-8")
    name = f"loopserve-{os.getpid()}-{directory.name}"
    log = directory / "log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            (*RUNTIME, "run", "--bundle", str(directory), name),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Container(name, popen, log)
    finally:
        subprocess.run((*RUNTIME, "delete", "--force", name), check=False, capture_output=True)
        popen.wait(STOP_S)
