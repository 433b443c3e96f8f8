"""Raw HTTP/1.1 over a socket: sends exactly the given bytes at the given pace, and reads whatever comes back.

An HTTP library would refuse to send most of what this tool sends, and would hide how a connection ended.
"""

import asyncio
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

MAX_ANSWER_BYTES = 64 << 20
MAX_HEAD_BYTES = 1 << 18
CONNECT_SECONDS = 10.0
SMALL_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to send, and how many seconds to wait before what follows."""

    data: bytes
    pause: float = 0.0


class End(StrEnum):
    """What the client does once it has sent everything."""

    WAIT = "wait"
    FIN = "half-close"
    RESET = "reset"


class Outcome(StrEnum):
    """How an exchange ended."""

    ANSWERED = "answered"
    CLOSED = "closed"  # the server closed the connection before all answers were there
    SILENT = "silent"  # the deadline passed
    UNREACHABLE = "unreachable"  # no connection


@dataclass(slots=True)
class Answer:
    """One response.

    Attributes:
        headers: names in lower case.
        complete: whether the body ended as its head said.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = False


@dataclass(slots=True)
class Exchange:
    """What came of one connection. `seconds` from the first byte sent to the end."""

    outcome: Outcome = Outcome.CLOSED
    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Manners:
    """How the client behaves.

    Attributes:
        answers: responses to wait for.
        deadline: seconds for everything.
        unread: seconds for which the client reads nothing, with the smallest window it can have.
    """

    end: End = End.WAIT
    answers: int = 1
    deadline: float = 20.0
    unread: float = 0.0


async def exchange(host: str, port: int, pieces: Iterable[Piece], manners: Manners) -> Exchange:
    """Send `pieces` on a connection of their own and read the answers meanwhile."""
    done = Exchange()
    try:
        reader, writer = await connect(host, port, small=manners.unread > 0)
    except OSError:
        return Exchange(Outcome.UNREACHABLE)
    started = time.monotonic()
    sending = asyncio.create_task(_send(writer, pieces, manners.end))
    try:
        async with asyncio.timeout(manners.deadline):
            if manners.unread:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(manners.unread)
                writer.transport.resume_reading()  # type: ignore[attr-defined]
            while len(done.answers) < manners.answers:
                await read_answer(reader, done.answers)
        done.outcome = Outcome.ANSWERED
    except TimeoutError:
        done.outcome = Outcome.SILENT
    except (EOFError, OSError, ValueError):
        done.outcome = Outcome.CLOSED
    finally:
        done.seconds = time.monotonic() - started
        sending.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await sending
        writer.transport.abort()
    return done


async def connect(
    host: str, port: int, *, small: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection; `small` for one that holds as little unread data as the system allows.

    Raises:
        OSError: there is none, or not in time.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return await asyncio.open_connection(sock=sock, limit=MAX_HEAD_BYTES)
    except TimeoutError as error:
        sock.close()
        raise OSError(str(error)) from None
    except OSError:
        sock.close()
        raise


def reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the peer gets RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


async def read_head(reader: asyncio.StreamReader) -> Answer:
    """Status and headers of the next response that is not a mere "continue".

    Raises:
        EOFError: the connection ended instead.
        ValueError: it is no HTTP/1.x.
    """
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise ValueError("a head without end") from None
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ValueError("not HTTP/1.x")
        pairs = (line.partition(":") for line in lines if line)
        status = int(rest[:3])
        if status >= 200:
            return Answer(status, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def read_answer(reader: asyncio.StreamReader, answers: list[Answer]) -> None:
    """Append the next response to `answers` as soon as its head is there; its body grows while it is read.

    Raises:
        EOFError, OSError, ValueError: it ended too early or is malformed.
    """
    answer = await read_head(reader)
    answers.append(answer)
    if answer.status in (204, 304):
        answer.complete = True
    elif answer.headers.get("transfer-encoding", "").lower() == "chunked":
        while chunk := await read_chunk(reader):
            _grow(answer, chunk)
        answer.complete = True
    elif (length := answer.headers.get("content-length", "")).isdigit():
        while len(answer.body) < int(length):
            _grow(answer, await _some(reader, int(length) - len(answer.body)))
        answer.complete = True
    else:
        while data := await reader.read(1 << 16):
            _grow(answer, data)
        answer.complete = True
        raise EOFError  # only the end of the connection ends such a body


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of a chunked body; empty for the last one."""
    size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
    data = await reader.readexactly(size)
    await reader.readexactly(2)
    return data


async def _some(reader: asyncio.StreamReader, most: int) -> bytes:
    data = await reader.read(min(most, 1 << 16))
    if not data:
        raise EOFError
    return data


def _grow(answer: Answer, data: bytes) -> None:
    if len(answer.body) + len(data) > MAX_ANSWER_BYTES:
        raise ValueError("the answer is too long")
    answer.body += data


async def _send(writer: asyncio.StreamWriter, pieces: Iterable[Piece], end: End) -> None:
    """Send everything; a server that has closed already ends it early."""
    with suppress(OSError):
        for piece in pieces:
            writer.write(piece.data)
            await writer.drain()
            if piece.pause:
                await asyncio.sleep(piece.pause)
        if end is End.FIN:
            writer.write_eof()
        elif end is End.RESET:
            reset(writer)
