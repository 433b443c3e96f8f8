"""Settings from options and environment, and what is refused."""

from pathlib import Path

import pytest

from engine.options import EngineOptions
from server import settings as settings_module
from server.errors import SettingsError
from server.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings_module, "DEMO_MODEL", tmp_path / "no-demo")


def refused(given: dict[str, object]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(given).all_api_keys()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults() -> None:
    settings = load_settings({"model": "some/model"})
    assert (settings.host, settings.port, settings.drain_timeout) == ("127.0.0.1", 8000, 30.0)
    assert settings.max_body_size == 4 * 1024 * 1024
    assert settings.model_name == "some/model"
    assert settings.all_api_keys() == ()


def test_option_wins_over_environment_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPSERVE_PORT", "9000")
    monkeypatch.setenv("LOOPSERVE_MAX_NUM_SEQS", "7")
    monkeypatch.setenv("LOOPSERVE_PREFIX_CACHING", "false")
    settings = load_settings({"model": "m/n", "port": 9001})
    assert (settings.port, settings.max_num_seqs, settings.prefix_caching) == (9001, 7, False)


def test_engine_options_are_all_passed_on() -> None:
    given = {
        "model_overrides": '{"plt_window_size": [4, 0]}',
        "execution": "sequential",
        "max_model_len": 100,
        "max_num_seqs": 5,
        "max_rows_per_step": 50,
        "block_size": 8,
        "kv_cache_memory": "2GiB",
        "prefix_caching": False,
        "attention_backend": "reference",
        "device": "cpu",
        "dtype": "bfloat16",
        "kv_cache_dtype": "fp8",
        "quantization": "int8",
        "cuda_graphs": False,
        "threads": 3,
        "tensor_parallel_size": 2,
        "self_check": False,
        "calibration_time": 0,
        "shadow_steps": 100,
        "loop_metrics_sample": 0.5,
    }
    options = load_settings({"model": "m/n", **given}).engine_options(Path("/models/x"))
    assert options.kv_cache_memory == 2 * 1024**3
    assert options.model_overrides == {"plt_window_size": [4, 0]}
    default = EngineOptions(model_dir="")
    same = [n for n in EngineOptions.__struct_fields__ if getattr(options, n) == getattr(default, n)]
    assert same == ["calibrated"], "an engine option without a setting"


def test_defaults_agree_with_the_engine() -> None:
    options = load_settings({"model": "m/n"}).engine_options(Path("x"))
    assert options == EngineOptions(model_dir="x")


def test_unknown_environment_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPSERVE_MAX_NUM_SEQ", "4")
    assert refused({"model": "m/n"}) == (
        "unknown environment variable LOOPSERVE_MAX_NUM_SEQ; did you mean LOOPSERVE_MAX_NUM_SEQS?"
    )


@pytest.mark.parametrize("service", ["LOOPSERVE", "LOOPSERVE_GPU"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "8000"),
        ("SERVICE_PORT_HTTP", "8000"),
        ("PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("PORT_8000_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variables_that_kubernetes_makes_of_a_service_are_explained(
    monkeypatch: pytest.MonkeyPatch, service: str, name: str, value: str
) -> None:
    monkeypatch.setenv(f"{service}_{name}", value)
    text = refused({"model": "m/n"})
    assert text.startswith(f"unknown environment variable {service}_{name}: Kubernetes made it of a Service")
    assert "enableServiceLinks: false" in text


def test_all_variables_of_a_service_at_once_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pod: a port that is no number, of a name that is a setting's, must not be what is complained about."""
    for name, value in {
        "LOOPSERVE_PORT": "tcp://10.0.0.1:8000",
        "LOOPSERVE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "LOOPSERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "LOOPSERVE_PORT_8000_TCP_PORT": "8000",
        "LOOPSERVE_PORT_8000_TCP_PROTO": "tcp",
        "LOOPSERVE_SERVICE_HOST": "10.0.0.1",
        "LOOPSERVE_SERVICE_PORT": "8000",
        "LOOPSERVE_METRICS_PORT": "tcp://10.0.0.2:9000",
        "LOOPSERVE_METRICS_SERVICE_HOST": "10.0.0.2",
    }.items():
        monkeypatch.setenv(name, value)
    assert "enableServiceLinks: false" in refused({"model": "m/n"})


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, "MODEL is required"),
        ({"model": ""}, "MODEL: "),
        ({"model": "m", "port": 70000}, "--port: "),
        ({"model": "m", "execution": "both"}, "--execution: input should be 'parallel' or 'sequential'"),
        ({"model": "m", "kv_cache_memory": "much"}, "--kv-cache-memory: "),
        ({"model": "m", "kv_cache_memory": "0"}, "--kv-cache-memory: "),
        ({"model": "m", "model_overrides": "{'a': 1}"}, "--model-overrides: is not valid JSON"),
        ({"model": "m", "model_overrides": "[1]"}, "--model-overrides: "),
        ({"model": "m", "api_keys": ["a", ""]}, "--api-key: holds an empty key"),
        ({"model": "m", "drain_timeout": "nan"}, "--drain-timeout: "),
        ({"model": "m", "colour": "red"}, "--colour: "),
    ],
)
def test_wrong_values_are_named_on_one_line(given: dict[str, object], start: str) -> None:
    assert refused(given).startswith(start)


def test_environment_is_named_as_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPSERVE_PORT", "eighty")
    assert refused({"model": "m"}).startswith("LOOPSERVE_PORT: ")


def test_keys_from_environment_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPSERVE_API_KEYS", "first-key, two")
    file = tmp_path / "keys"
    file.write_text("three\n\n four \n")
    settings = load_settings({"model": "m", "api_key_file": file})
    assert settings.all_api_keys() == ("first-key", "two", "three", "four")
    assert "first-key" not in repr(settings)


def test_set_but_empty_keys_do_not_open_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOPSERVE_API_KEYS", "")
    assert "empty key" in refused({"model": "m"})
    monkeypatch.delenv("LOOPSERVE_API_KEYS")
    (tmp_path / "keys").write_text("\n")
    assert "holds no key" in refused({"model": "m", "api_key_file": tmp_path / "keys"})
    assert "can't read" in refused({"model": "m", "api_key_file": tmp_path / "absent"})


def test_model_name_and_bundled_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    monkeypatch.setattr(settings_module, "DEMO_MODEL", demo)
    assert load_settings({}).model == str(demo)
    assert load_settings({}).model_name == "demo"
    assert load_settings({"served_model_name": "mine"}).model_name == "mine"
    monkeypatch.setenv("LOOPSERVE_MODEL", "other/model")
    assert load_settings({}).model == "other/model"


def test_every_setting_has_a_description() -> None:
    assert [name for name, info in Settings.model_fields.items() if not info.description] == []
