"""Errors the engine raises on purpose; every text tells the reader what to do next.

The class decides who sees it: `ModelError` ends the start-up (exit code 2), `InvalidRequestError` refuses one
request (HTTP 400), `RequestFailedError` ends one (HTTP 500), `EngineDeadError` ends requests whose engine process has
gone (HTTP 500, retry is safe).
"""


class LoopserveError(Exception):
    """Base of every deliberate error of this project."""


class OptionError(LoopserveError):
    """A command line option has a value that can't be used; the text says which are."""


class ModelError(LoopserveError):
    """The model directory can't be served as it is."""


class ConfigError(ModelError):
    """`config.json` asks for something unknown, absurd or not implemented."""


class CheckpointError(ModelError):
    """A weight file is missing, malformed, or has a missing, unexpected or misshapen tensor."""


class TokenizerError(ModelError):
    """The tokenizer or its chat template can't be loaded or used."""


class InvalidRequestError(LoopserveError):
    """One request can't be served.

    Attributes:
        param: name of the offending request field, or None.
        code: machine-readable code in OpenAI's error object, or None.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextLengthError(InvalidRequestError):
    """A prompt and the tokens wanted after it don't fit into one sequence.

    Attributes:
        prompt_tokens: length of the prompt.
        max_model_len: what a sequence may have.
    """

    def __init__(self, message: str, *, param: str, prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")
        self.prompt_tokens = prompt_tokens
        self.max_model_len = max_model_len


class EngineDeadError(LoopserveError):
    """The engine process ended or stopped making progress while a request was in flight."""


class EngineStartError(LoopserveError):
    """This machine doesn't let an engine process begin: no temporary directory, no file descriptors, no process."""


class RequestFailedError(LoopserveError):
    """Something of ours broke on one request; it ended, and nobody else was touched."""


def is_isolable(error: BaseException) -> bool:
    """Whether an exception may be taken for one request's alone.

    A panic in a Rust library (tokenizers, llguidance) may: pyo3 derives it from BaseException, with a class that every
    library makes for itself. Whatever else is no `Exception` (exits, interrupts, cancellation) must go its way.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
