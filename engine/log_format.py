"""Log lines that nothing in them can forge: one line per event, printable, of bounded length."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

MAX_LINE_BYTES = 4096
MAX_TRACEBACK_CHARS = 3000  # its end says what happened

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being served; lines of the JSON format carry it."""


class OneLineFormatter(logging.Formatter):
    """Escapes what is not printable, line breaks of tracebacks included, and cuts what is too long.

    A record's `fields` (`extra={"fields": {...}}`) come behind its message.

    Text of clients is not meant to be logged, but ends up in an exception sooner or later. With a line break or a
    terminal's escape sequence in it, it could pass for another line.
    """

    def __init__(self, process: str = "") -> None:
        """`process` tells this process's lines from others'."""
        super().__init__(f"%(levelname)s %(name)s{process}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One event as a line without its end."""
        fields = getattr(record, "fields", {})
        return printable(" ".join([super().format(record), *(f"{name}={fields[name]}" for name in fields)]))

    def formatException(self, ei: object) -> str:  # noqa: N802  (logging's name)
        """A traceback, or the end of a long one."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return text if len(text) <= MAX_TRACEBACK_CHARS else f"... {text[-MAX_TRACEBACK_CHARS:]}"


class JsonFormatter(logging.Formatter):
    """One JSON object of ASCII characters per event, whole also where its texts were cut.

    A record's `fields` (`extra={"fields": {...}}`) become keys of their own.
    """

    def __init__(self, process: str = "") -> None:
        """`process` tells this process's lines from others'."""
        super().__init__()
        self._process = process.strip(" ()") or "server"

    def format(self, record: logging.LogRecord) -> str:
        """One event as a line without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
        }
        if (request_id := getattr(record, "request_id", None) or current_request_id.get()) is not None:
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _fitting(line)


def _fitting(line: dict[str, Any]) -> str:
    """The object in at most `MAX_LINE_BYTES`: of the longest text half is left, until it fits.

    Of an exception that is its end. Half a surrogate pair is text to Python, but to few others that read JSON.
    """
    for key, value in line.items():
        if not isinstance(value, str | int | float | None):
            line[key] = value = str(value)
        if isinstance(value, str):
            whole = (
                value if key == "exception" else value[:MAX_LINE_BYTES]
            )  # before it is escaped for nothing
            line[key] = whole.encode(errors="backslashreplace").decode()
    while len(text := json.dumps(line)) > MAX_LINE_BYTES:
        longest = max((key for key in line if isinstance(line[key], str)), key=lambda key: len(line[key]))
        value, half = line[longest], len(line[longest]) // 2
        line[longest] = f"...{value[-half:]}" if longest == "exception" else f"{value[:half]}..."
    return text


def printable(text: str) -> str:
    """Text on one line, in escapes as Python writes them, of at most `MAX_LINE_BYTES`."""
    text = text[:MAX_LINE_BYTES]  # what is cut further below is at least as long
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    data = text.encode()
    if len(data) <= MAX_LINE_BYTES:
        return text
    return data[: MAX_LINE_BYTES - 3].decode(errors="ignore") + "..."


def log_to_stderr(level: int | str, log_format: LogFormat, process: str = "") -> None:
    """Set this process's log up; `process` tells its lines from others'."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(process) if log_format == "json" else OneLineFormatter(process))
    logging.basicConfig(level=level, handlers=[handler])


def log_format_in_use() -> LogFormat:
    """What `log_to_stderr` was told in this process."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers) else "text"
