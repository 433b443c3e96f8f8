"""From settings to everything the application needs: model directory, config, tokenizer, engine client."""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from engine.config import load_config, load_generation_defaults
from engine.host import EngineHost
from engine.model_files import resolve_model
from engine.process_host import ProcessHost
from engine.thread_host import ThreadHost, core_loader
from engine.tokenizer import Tokenizer
from server.calibration import CalibrationState
from server.chat_dialect import chat_dialect
from server.chat_template import template_of
from server.engine_client import EngineClient
from server.grammar_trial import GrammarTrial
from server.key_limits import KeyLimits
from server.metrics import ServerMetrics
from server.model_trial import try_model
from server.settings import Settings
from server.state import AppState
from server.tracing import make_tracer
from server.version import package_version

logger = logging.getLogger(__name__)


def build_state(settings: Settings) -> AppState:
    """Read everything about the model but its weights, which the engine loads later.

    Raises:
        ModelError: the model can't be found or served.
        SettingsError: a file named by a setting can't be used.
    """
    given_template = settings.read_chat_template()
    model_dir = resolve_model(settings.model, settings.revision)
    config = load_config(model_dir, settings.model_overrides)
    try_model(model_dir, given_template)
    tokenizer = Tokenizer.load(model_dir)
    if tokenizer.vocab_size > config.vocab_size:
        logger.warning(
            "the tokenizer has ids up to %d, the model only up to %d; requests whose text needs others are refused",
            tokenizer.vocab_size - 1,
            config.vocab_size - 1,
        )
    template = template_of(tokenizer, given_template)
    metrics = ServerMetrics(package_version(), buckets=settings.histogram_buckets)
    calibration = CalibrationState()
    client = EngineClient(
        host_factory(settings, model_dir, calibration),
        metrics,
        limits=settings.admission_limits,
        heartbeat_timeout=settings.heartbeat_timeout,
        queue_timeout=settings.queue_timeout,
        request_timeout=settings.request_timeout,
        calibration=calibration,
    )
    return AppState(
        settings=settings,
        client=client,
        metrics=metrics,
        key_limits=KeyLimits(settings.key_quota(0)),
        grammars=GrammarTrial(
            [str(model_dir), str(config.vocab_size), ",".join(map(str, config.eos_token_ids))],
            settings.grammar_timeout,
            on_trial=metrics.on_grammar,
        ),
        tokenizer=tokenizer,
        model_name=settings.model_name,
        model_config=config,
        generation_defaults=load_generation_defaults(model_dir),
        chat_template=template,
        dialect=chat_dialect(template, tokenizer, settings.tool_call_parser, settings.reasoning_parser),
        created=int(time.time()),
        tracer=None
        if settings.otlp_endpoint is None
        else make_tracer(settings.otlp_endpoint, settings.model_name),
    )


def host_factory(
    settings: Settings, model_dir: Path, calibration: CalibrationState
) -> Callable[[], EngineHost]:
    """Makes one engine host per life of the engine, of the kind the settings ask for.

    Args:
        calibration: what it knows is handed to the next life, so that a restart takes no longer for it.
    """
    first = settings.engine_options(model_dir)
    show_progress = sys.stderr.isatty()

    def make() -> EngineHost:
        options = msgspec.structs.replace(first, calibrated=calibration.cells)
        if settings.single_process:
            return ThreadHost(core_loader(options, show_progress))
        return ProcessHost(
            options,
            heartbeat_timeout=settings.heartbeat_timeout,
            log_level=settings.log_level,
            log_format=settings.log_format,
            show_progress=show_progress,
        )

    return make
