"""What a container of the image must do: each check is one container and gives what it saw, or raises CheckError."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.image.container import Container, How, Image, running

READY_S = 600.0
EXIT_S = 20.0
USER = 1000
OPENSHIFT_UID = 1_000_650_000
CACHE_MEMORY = "64MiB"
KEY = "sk-image-check"


class CheckError(Exception):
    """The image doesn't do what it must."""


@dataclass
class Bench:
    """Where the checks run."""

    image: Image
    directory: Path
    count: int = 0

    @contextlib.contextmanager
    def start(self, how: How) -> Iterator[tuple[Container, int]]:
        """A container that listens on a free port of this machine's loopback."""
        self.count += 1
        port = _free_port()
        settings = {
            "LOOPSERVE_HOST": "127.0.0.1",
            "LOOPSERVE_PORT": str(port),
            "LOOPSERVE_KV_CACHE_MEMORY": CACHE_MEMORY,
        }
        how = How(
            user=how.user,
            cache=how.cache,
            tmp=how.tmp,
            environment=settings | dict(how.environment),
            arguments=how.arguments,
            files=how.files,
        )
        with running(self.image, how, self.directory / f"run{self.count}") as container:
            yield container, port

    def cache(self, name: str) -> Path:
        """A directory for /cache with the owner and mode that the image gives it."""
        place = self.directory / name
        if not place.exists():
            place.mkdir()
            os.chown(place, USER, 0)
            place.chmod(0o775)
        return place


def first_start(bench: Bench) -> str:
    """From an empty cache, as the image's user: health check, an answer, what it writes, drain."""
    cache = bench.cache("cache")
    with bench.start(How(cache=cache)) as (container, port):
        _until_listening(container, port)
        before = container.execute(*bench.image.health_command())
        _expect(before.returncode == 1, f"the health check gave {before.returncode} before ready")
        seconds, cpu = _until_ready(bench, container)
        _answer(port)
        denied = container.execute("touch", "/opt/venv/x", "/models/x", "/x").stderr.count("Read-only")
        _expect(denied == 3, f"only {denied} of 3 places are read-only")
        state = container.execute("cat", "/proc/1/status").stdout
        _expect("NoNewPrivs:\t1" in state, "new privileges")
        _expect(re.search(r"CapBnd:\t0+\n", state) is not None, "capabilities")
        temporary = container.execute("ls", "/tmp").stdout.split()
        tokens = _drain(container, port)
    written = sorted(path.name for path in cache.iterdir())
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6
    return (
        f"health check 1 while loading, 0 when ready, after {seconds:.0f} s ({cpu:.0f} s of CPU, kernels compiled); a "
        f"completion; root read-only, no capabilities; wrote {', '.join(written)} ({size:.1f} MB) below /cache and "
        f"{len(temporary)} directory in /tmp; SIGTERM during a stream: all {tokens} tokens came, exit code 0"
    )


def second_start(bench: Bench) -> str:
    """With the cache of the first."""
    with bench.start(How(cache=bench.cache("cache"))) as (container, port):
        seconds, cpu = _until_ready(bench, container)
        _answer(port)
        _exit(container)
    return f"ready after {seconds:.0f} s ({cpu:.0f} s of CPU), exit code 0"


def other_uid(bench: Bench) -> str:
    """As OpenShift does: some uid without a name, group 0; with API keys and allowed hosts on top."""
    keys = bench.directory / "keys"
    keys.write_text(KEY + "\n", encoding="utf-8")
    environment = {
        "LOOPSERVE_API_KEY_FILE": "/run/secrets/keys",
        "LOOPSERVE_ALLOWED_HOSTS": "api.example.com",
    }
    cache = bench.cache("cache-of-another")
    how = How(user=OPENSHIFT_UID, cache=cache, environment=environment, files={"/run/secrets/keys": keys})
    _copy_kernels(bench.cache("cache"), cache)
    with bench.start(how) as (container, port):
        _until_ready(bench, container)
        _expect(container.execute("id", "-u").stdout.strip() == str(OPENSHIFT_UID), "another uid")
        _expect(_request(port, "/v1/models", host="api.example.com")[0] == 401, "no key was asked for")
        status, _ = _request(port, "/v1/models", host="api.example.com", key=KEY)
        _expect(status == 200, f"with a key: {status}")
        _exit(container)
    return f"uid {OPENSHIFT_UID}: ready; health check 0 with API keys and --allowed-host; 401 without key; exit code 0"


def one_directory(bench: Bench) -> str:
    """Nothing writable but /cache, not even /tmp."""
    with bench.start(How(cache=bench.cache("cache"), tmp=False)) as (container, port):
        _until_ready(bench, container)
        _answer(port)
        _exit(container)
    left = [path.name for path in bench.cache("cache").iterdir() if path.name.startswith("loopserve-")]
    _expect(not left, f"left behind: {left}")
    return "without a writable /tmp: ready, a completion, exit code 0, no temporary file left in /cache"


def early_signal(bench: Bench) -> str:
    """SIGTERM before Python has said that it wants to hear it; process 1 would ignore it."""
    with bench.start(How(cache=bench.cache("cache"))) as (container, _):
        _wait(lambda: container.execute("true").returncode == 0, 30, "the container didn't start")
        container.stop()
        began = time.monotonic()
        code = container.exit_code()
        took = time.monotonic() - began
    _expect(took < EXIT_S, f"{took:.0f} s")
    return f"ended within {took:.1f} s, exit code {code}"


def wrong_variable(bench: Bench) -> str:
    """The variables of a Kubernetes Service named loopserve."""
    environment = {"LOOPSERVE_SERVICE_HOST": "10.0.0.1", "LOOPSERVE_PORT": "tcp://10.0.0.1:8000"}
    with bench.start(How(cache=bench.cache("cache"), environment=environment)) as (container, _):
        code = container.exit_code()
    text = container.log.read_text()
    _expect(code == 2 and "enableServiceLinks: false" in text, f"{code}: {text}")
    return "exit code 2, and the message names enableServiceLinks"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "first start": first_start,
    "second start": second_start,
    "other uid, API keys": other_uid,
    "only /cache writable": one_directory,
    "SIGTERM at once": early_signal,
    "Kubernetes' variables": wrong_variable,
}


def _copy_kernels(source: Path, target: Path) -> None:
    """The compiled kernels, readable and writable by group 0 as on a volume with fsGroup 0."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
            place.chmod(0o775)
        else:
            place.write_bytes(path.read_bytes())
            place.chmod(0o664)
        os.chown(place, USER, 0)


def _drain(container: Container, port: int) -> int:
    """SIGTERM while an answer streams; gives how many tokens came."""
    asked = 200
    lines: list[bytes] = []
    first = threading.Event()

    def read() -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            connection.request("POST", "/v1/completions", _body(asked, stream=True), _JSON)
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    lines.append(line)
                    first.set()

    thread = threading.Thread(target=read)
    thread.start()
    _expect(first.wait(60), "no stream")
    came = len(lines)
    _expect(came < asked, "the stream was over too soon to test anything")
    container.stop()
    thread.join(120)
    _expect(container.exit_code() == 0, f"exit code {container.exit_code()}")
    _expect(lines[-1].strip() == b"data: [DONE]", "the stream was cut")
    finish = [
        json.loads(line[6:])["choices"][0]["finish_reason"] for line in lines[:-1] if b"choices" in line
    ]
    _expect("length" in finish, f"the stream ended with {set(finish)}")
    return asked


_JSON = {"Content-Type": "application/json"}


def _body(tokens: int, stream: bool = False) -> bytes:
    fields = {"model": "demo", "prompt": "def f(", "max_tokens": tokens, "stream": stream, "ignore_eos": True}
    return json.dumps(fields).encode()


def _answer(port: int) -> None:
    status, text = _request(port, "/v1/completions", _body(5))
    _expect(status == 200, f"a completion gave {status}: {text}")
    _expect(json.loads(text)["usage"]["completion_tokens"] == 5, text)


def _request(
    port: int, path: str, body: bytes | None = None, host: str = "localhost", key: str = ""
) -> tuple[int, str]:
    headers = {"Host": host, **(_JSON if body else {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST" if body else "GET", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def _until_listening(container: Container, port: int) -> None:
    def answers() -> bool:
        try:
            return _request(port, "/health")[0] == 200
        except OSError:
            return False

    _wait(answers, 120, "nothing listens", container)


def _until_ready(bench: Bench, container: Container) -> tuple[float, float]:
    """Wait until the image's own health check says 0; seconds since the process began, and of CPU."""
    command = bench.image.health_command()
    _wait(lambda: container.execute(*command).returncode == 0, READY_S, "not ready", container)
    return container.age(), container.cpu_seconds()


def _exit(container: Container) -> None:
    container.stop()
    code = container.exit_code()
    _expect(code == 0, f"exit code {code}: {container.log.read_text()[-500:]}")


def _wait(
    holds: Callable[[], bool], seconds: float, otherwise: str, container: Container | None = None
) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end or (container is not None and not container.running):
            text = "" if container is None else container.log.read_text()[-1000:]
            raise CheckError(f"{otherwise}: {text}")
        time.sleep(2)


def _expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise CheckError(otherwise)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
