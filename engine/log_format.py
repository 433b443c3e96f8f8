"""Log lines that nothing in them can forge: one line per event, printable, of bounded length."""

import logging

MAX_LINE_BYTES = 4096
MAX_TRACEBACK_CHARS = 3000  # its end says what happened


class OneLineFormatter(logging.Formatter):
    """Escapes what is not printable, line breaks of tracebacks included, and cuts what is too long.

    Text of clients is not meant to be logged, but ends up in an exception sooner or later. With a line break or a
    terminal's escape sequence in it, it could pass for another line.
    """

    def __init__(self, process: str = "") -> None:
        """`process` tells this process's lines from others'."""
        super().__init__(f"%(levelname)s %(name)s{process}: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One event as a line without its end."""
        return printable(super().format(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  (logging's name)
        """A traceback, or the end of a long one."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return text if len(text) <= MAX_TRACEBACK_CHARS else f"... {text[-MAX_TRACEBACK_CHARS:]}"


def printable(text: str) -> str:
    """Text on one line, in escapes as Python writes them, of at most `MAX_LINE_BYTES`."""
    text = text[:MAX_LINE_BYTES]  # what is cut further below is at least as long
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    data = text.encode()
    if len(data) <= MAX_LINE_BYTES:
        return text
    return data[: MAX_LINE_BYTES - 3].decode(errors="ignore") + "..."


def log_to_stderr(level: int | str, process: str = "") -> None:
    """Set this process's log up; `process` tells its lines from others'."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter(process))
    logging.basicConfig(level=level, handlers=[handler])
