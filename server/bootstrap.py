"""From settings to everything the application needs: model directory, config, tokenizer, engine client."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.config import load_config, load_generation_defaults
from engine.host import EngineHost
from engine.model_files import resolve_model
from engine.process_host import ProcessHost
from engine.thread_host import ThreadHost, core_loader
from engine.tokenizer import Tokenizer
from server.chat_dialect import chat_dialect
from server.chat_template import ChatTemplate
from server.engine_client import EngineClient
from server.grammar_trial import GrammarTrial
from server.key_limits import KeyLimits
from server.metrics import ServerMetrics
from server.settings import Settings
from server.state import AppState
from server.version import package_version


def build_state(settings: Settings) -> AppState:
    """Read everything about the model but its weights, which the engine loads later.

    Raises:
        ModelError: the model can't be found or served.
        SettingsError: a file named by a setting can't be used.
    """
    given_template = settings.read_chat_template()
    model_dir = resolve_model(settings.model)
    config = load_config(model_dir, settings.model_overrides)
    tokenizer = Tokenizer.load(model_dir)
    template = _compile(tokenizer.chat_template if given_template is None else given_template, tokenizer)
    metrics = ServerMetrics(package_version())
    client = EngineClient(
        host_factory(settings, model_dir),
        metrics,
        max_in_flight=settings.max_in_flight,
        heartbeat_timeout=settings.heartbeat_timeout,
    )
    return AppState(
        settings=settings,
        client=client,
        metrics=metrics,
        key_limits=KeyLimits(settings.key_quota(0)),
        grammars=GrammarTrial(
            [str(model_dir), str(config.vocab_size), ",".join(map(str, config.eos_token_ids))],
            settings.grammar_timeout,
        ),
        tokenizer=tokenizer,
        model_name=settings.model_name,
        model_config=config,
        generation_defaults=load_generation_defaults(model_dir),
        chat_template=template,
        dialect=chat_dialect(template, tokenizer, settings.tool_call_parser, settings.reasoning_parser),
        created=int(time.time()),
    )


def _compile(source: str | None, tokenizer: Tokenizer) -> ChatTemplate | None:
    if source is None:
        return None
    ids = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id}
    return ChatTemplate(
        source, {name: "" if i is None else tokenizer.token_text(i) for name, i in ids.items()}
    )


def host_factory(settings: Settings, model_dir: Path) -> Callable[[], EngineHost]:
    """Makes one engine host per life of the engine, of the kind the settings ask for."""
    options = settings.engine_options(model_dir)
    show_progress = sys.stderr.isatty()
    if settings.single_process:
        return lambda: ThreadHost(core_loader(options, show_progress))
    return lambda: ProcessHost(
        options,
        heartbeat_timeout=settings.heartbeat_timeout,
        log_level=settings.log_level,
        show_progress=show_progress,
    )
