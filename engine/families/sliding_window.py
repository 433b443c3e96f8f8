"""Qwen's switch for sliding windows, which is off in the models that are served. Ouro's config class has it too."""

from engine.config_fields import Fields
from engine.errors import ConfigError

SLIDING_WINDOW_KEYS = ("use_sliding_window", "sliding_window", "max_window_layers")


def refuse_sliding_window(fields: Fields) -> None:
    """Refuse a config in which a layer attends to a window only.

    With the switch on, that is every layer from `max_window_layers` on; `layer_types` is checked for all families.

    Raises:
        ConfigError: there is such a layer.
    """
    on = fields.boolean("use_sliding_window", False) and fields.values.get("sliding_window") is not None
    if not on or fields.values.get("layer_types") is not None:
        return
    layers = fields.integer("num_hidden_layers", 1, 1 << 20)
    first = fields.integer("max_window_layers", 0, 1 << 20)
    if first < layers:
        raise ConfigError(
            f"config.json: use_sliding_window is true and layers {first} to {layers - 1} attend to a window of "
            "sliding_window tokens only, which is not implemented."
        )
