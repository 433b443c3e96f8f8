"""Every error a client can get, once: status, type, code, text and when. docs/errors.md is made of it.

The code that raises an error takes it from here. Client libraries decide by status, `type`, `code` and some words of
the text whether to retry, to shorten the prompt or to give up, so a row is part of the interface.
"""

from dataclasses import dataclass

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row.

    Attributes:
        status: HTTP status; after the first byte of a stream the same error object is an event instead.
        type: `type` in the error object: whose fault it is.
        code: what programs should look at, or None.
        text: `message`, with the places that vary in braces.
        when: for the reader of the table.
    """

    status: int
    type: str
    code: str | None
    text: str
    when: str

    def message(self, **values: object) -> str:
        """The text for one case; every place needs its value."""
        return self.text.format(**values)


INVALID_VALUE = ErrorKind(
    400, INVALID_REQUEST, None, "{problem}", "A field has a wrong type or value, or fields don't go together."
)
MISSING_FIELD = ErrorKind(
    400, INVALID_REQUEST, None, "{field} is required.", "A field without default is missing."
)
TOO_MANY_FIELDS = ErrorKind(
    400,
    INVALID_REQUEST,
    None,
    "The body may have at most {limit} fields.",
    "A body has absurdly many fields.",
)
TOO_MANY_VALUES = ErrorKind(
    400,
    INVALID_REQUEST,
    None,
    "The body may hold at most {limit} objects and lists.",
    "A body holds absurdly many small things.",
)
TOO_NESTED = ErrorKind(
    400,
    INVALID_REQUEST,
    None,
    "{field} makes the body more than {limit} levels deep.",
    "A schema or anything else in the body is deeper than `--max-nesting`.",
)
MALFORMED_ADDRESS = ErrorKind(
    400, INVALID_REQUEST, None, "The request's path or query is malformed.", "The address can't be read."
)
MALFORMED_HTTP = ErrorKind(
    400,
    INVALID_REQUEST,
    "malformed_http",
    "This is not a valid HTTP/1.1 request.",
    "What came is no HTTP, or is HTTP that servers read in different ways: two lengths, folded headers, no `Host`. "
    "The connection is closed.",
)
INVALID_JSON = ErrorKind(
    400,
    INVALID_REQUEST,
    "invalid_json",
    "The body is not valid JSON: {problem}.",
    "The body can't be parsed. NaN, Infinity, comments and lone surrogates are no JSON.",
)
NOT_AN_OBJECT = ErrorKind(
    400,
    INVALID_REQUEST,
    "invalid_json",
    "The body must be a JSON object.",
    "The body is JSON of another kind.",
)
UNSUPPORTED_PARAMETER = ErrorKind(
    400,
    INVALID_REQUEST,
    "unsupported_parameter",
    "{field} is not supported by this server.",
    "A field asks for something that can't be ignored without a wrong answer, such as a constraint on the output.",
)
UNSUPPORTED_PARAMETER_HINT = ErrorKind(
    400,
    INVALID_REQUEST,
    "unsupported_parameter",
    "{field} is not supported by this server. {hint}",
    "The same, where something else does what the field asks for.",
)
INVALID_GRAMMAR = ErrorKind(
    400,
    INVALID_REQUEST,
    "invalid_grammar",
    "{problem}",
    "A JSON schema, regex, choice or grammar doesn't compile, or not within the time and memory that grammars get.",
)
INVALID_HOST = ErrorKind(
    400,
    INVALID_REQUEST,
    "invalid_host",
    "The Host header must be there once and name this server.",
    "Host is absent, doubled, malformed or not one of `--allowed-host`. Every path but `/health` and `/ready`.",
)
KEY_TOO_MANY_SEQUENCES = ErrorKind(
    400,
    INVALID_REQUEST,
    None,
    "The request asks for {count} sequences; an API key may have {limit} in flight.",
    "Prompts times `n` is more than `--key-concurrency` will ever allow.",
)
CONTEXT_LENGTH_EXCEEDED = ErrorKind(
    400,
    INVALID_REQUEST,
    "context_length_exceeded",
    "This model's maximum context length is {limit} tokens. However, your prompt contains {prompt} tokens and "
    "requested {wanted} completion tokens, so the prompt is too long. Please reduce the length of the {field}.",
    "Prompt and `max_tokens` together are longer than `max_model_len` in `/v1/models`. "
    "Without `max_tokens` the middle part of the text is absent. The wording is frozen.",
)
INVALID_API_KEY = ErrorKind(
    401,
    INVALID_REQUEST,
    "invalid_api_key",
    "Missing or incorrect API key. Send it as 'Authorization: Bearer KEY'.",
    "The server has keys and the request shows none, or one that is wrong. Every path but `/health`, "
    "`/ready` and the files of the page.",
)
NOT_FOUND = ErrorKind(404, INVALID_REQUEST, None, "There is nothing at this path.", "No such endpoint.")
MODEL_NOT_FOUND = ErrorKind(
    404,
    INVALID_REQUEST,
    "model_not_found",
    "The model {name} does not exist; this server has {served}.",
    "`model` names another model. It may be left out.",
)
METHOD_NOT_ALLOWED = ErrorKind(
    405,
    INVALID_REQUEST,
    None,
    "This path does not take this HTTP method.",
    "The header `Allow` says which it takes.",
)
SLOW_REQUEST = ErrorKind(
    408,
    INVALID_REQUEST,
    "request_timeout",
    "The request did not arrive in time.",
    "The headers took longer than `--header-timeout` or the body longer than `--body-timeout`. "
    "The connection is closed.",
)
NOTHING_TO_CALIBRATE = ErrorKind(
    409,
    INVALID_REQUEST,
    "nothing_to_calibrate",
    "This model has one loop, so there is nothing to compare.",
    "`POST /calibrate` compares loops in one pass with loops one after another.",
)
CALIBRATION_RUNNING = ErrorKind(
    409,
    INVALID_REQUEST,
    "calibration_running",
    "A calibration is running; GET /calibrate says when it has ended.",
    "`POST /calibrate` while one is going on.",
)
CALIBRATED_RECENTLY = ErrorKind(
    409,
    INVALID_REQUEST,
    "calibrated_recently",
    "A calibration has just ended; the next one may begin {seconds} s after it.",
    "`POST /calibrate` too often: each slows requests down for some seconds.",
)
REQUEST_TOO_LARGE = ErrorKind(
    413,
    INVALID_REQUEST,
    "request_too_large",
    "The request body is larger than the limit of {limit} bytes.",
    "The body is larger than `--max-body-size`. The connection is closed.",
)
TOO_LONG_ADDRESS = ErrorKind(
    414,
    INVALID_REQUEST,
    "address_too_long",
    "The request's address is longer than {bytes} bytes.",
    "Path and query alone exceed `--max-header-size`. The connection is closed.",
)
UNSUPPORTED_MEDIA_TYPE = ErrorKind(
    415,
    INVALID_REQUEST,
    "unsupported_media_type",
    "Send the body as Content-Type: application/json.",
    "The body is announced as something else.",
)
UNSUPPORTED_ENCODING = ErrorKind(
    415, INVALID_REQUEST, "unsupported_media_type", "Send the body uncompressed.", "The body is compressed."
)
KEY_BUSY = ErrorKind(
    429,
    RATE_LIMIT,
    "rate_limit_exceeded",
    "This API key may have {limit} sequences in flight and would have more; please retry later.",
    "`--key-concurrency`. Every 429 has a `Retry-After`.",
)
KEY_RATE_LIMITED = ErrorKind(
    429,
    RATE_LIMIT,
    "rate_limit_exceeded",
    "This API key may use {limit} {what} per minute; please retry in {seconds} s.",
    "`--key-requests-per-minute` or `--key-tokens-per-minute`; the headers `x-ratelimit-*` say what is left.",
)
TOO_MANY_HEADERS = ErrorKind(
    431,
    INVALID_REQUEST,
    "headers_too_large",
    "The request has more than {count} headers or {bytes} bytes of them.",
    "The limits are `--max-headers` and `--max-header-size`, address included. The connection is closed.",
)
ENGINE_DEAD = ErrorKind(
    500,
    SERVER_ERROR,
    "engine_dead",
    "The engine stopped while this request was running; it is safe to retry.",
    "The engine process ended or hung; it is being started again.",
)
ENGINE_ERROR = ErrorKind(
    500,
    SERVER_ERROR,
    "engine_error",
    "The engine could not serve this request.",
    "The engine gave up this request alone; it may give a more exact text.",
)
INTERNAL_ERROR = ErrorKind(
    500,
    SERVER_ERROR,
    "internal_error",
    "Internal server error.",
    "A bug of the server. Its log has the details, under the response's `x-request-id`.",
)
LOADING = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The model is still loading; please retry later.",
    "`/ready` says when. Every 503 has a `Retry-After`.",
)
RESTARTING = ErrorKind(
    503, SERVER_ERROR, "unavailable", "The engine is restarting; please retry later.", "After `engine_dead`."
)
SHUTTING_DOWN = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The server is shutting down.",
    "After SIGTERM; running requests may finish.",
)
FAILED = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The engine has failed and the server is exiting.",
    "The engine could not be started again.",
)
ENGINE_BUSY = ErrorKind(
    503,
    SERVER_ERROR,
    "engine_busy",
    "The engine did not answer within {seconds} s; please retry later.",
    "`GET /cache` while the engine is in a long step, between two of which it answers.",
)
TOO_MANY_CONNECTIONS = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The server has too many connections; please retry later.",
    "`--max-connections` are open. Probes are answered on some more.",
)
BODIES_TOO_LARGE = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The server holds too many large request bodies; please retry later.",
    "The bodies of all requests together exceed `--max-body-memory`. The connection is closed.",
)
QUEUE_FULL = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The server is at its limit of {limit} requests; please retry later.",
    "`--max-num-seqs` sequences run and `--max-waiting-requests` wait, or this request's `n` would exceed that.",
)
QUEUE_TOKENS_FULL = ErrorKind(
    503,
    SERVER_ERROR,
    "unavailable",
    "The server is at its limit of {limit} waiting prompt tokens; please retry later.",
    "Others wait, and with this request's prompts there would be more than `--max-waiting-tokens` tokens of them.",
)
QUEUE_TIMEOUT = ErrorKind(
    503,
    SERVER_ERROR,
    "queue_timeout",
    "The request has waited for {seconds} s and was not begun; please retry later.",
    "The engine took up none of the request's sequences within `--queue-timeout`. No part of an answer was sent.",
)
REQUEST_TIMEOUT = ErrorKind(
    504,
    SERVER_ERROR,
    "deadline_exceeded",
    "The request was ended after the {seconds} s that this server allows. Ask for fewer tokens.",
    "The request ran longer than `--request-timeout`. The same request would again, so clients should not retry it.",
)

CATALOGUE: dict[str, ErrorKind] = {
    name: value for name, value in sorted(globals().items()) if isinstance(value, ErrorKind)
}
"""All rows by the name of their constant."""
