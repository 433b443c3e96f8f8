"""Bytes between the API process and the engine process: MessagePack of typed structs, nothing executable."""

import msgspec

from engine.log_format import LogFormat
from engine.messages import PROTOCOL_VERSION, FromEngine, ToEngine
from engine.options import EngineOptions


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """First message to an engine process. Encoded as a map, so that any version can read the version.

    Attributes:
        log_level: level of the engine process's own log, as a name that `logging` knows.
        log_format: of its lines.
        show_progress: draw a progress bar while loading.
    """

    options: EngineOptions
    log_level: str
    log_format: LogFormat = "text"
    show_progress: bool
    protocol_version: int = PROTOCOL_VERSION


_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)
_hello = msgspec.msgpack.Decoder(Hello)


def encode(message: Hello | ToEngine | FromEngine) -> bytes:
    """Bytes of a message in either direction."""
    return _encoder.encode(message)


def decode_hello(data: bytes) -> Hello:
    """The first message to the engine.

    Raises:
        msgspec.DecodeError: not a `Hello`.
    """
    return _hello.decode(data)


def decode_to_engine(data: bytes) -> ToEngine:
    """A message to the engine.

    Raises:
        msgspec.DecodeError: not one of `ToEngine`.
    """
    return _to_engine.decode(data)


def decode_from_engine(data: bytes) -> FromEngine:
    """A message from the engine.

    Raises:
        msgspec.DecodeError: not one of `FromEngine`.
    """
    return _from_engine.decode(data)
