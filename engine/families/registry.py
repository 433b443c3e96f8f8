"""Which family a model belongs to. A new one is a module with a `FAMILY` and a line here."""

from engine.config_fields import shown
from engine.errors import ConfigError
from engine.families import iquestcoder, iquestloopcoder, iquestpltcoder, llama, nanbeige, ouro, qwen2, qwen3
from engine.families.family import Family

FAMILIES = (
    iquestpltcoder.FAMILY,
    iquestloopcoder.FAMILY,
    nanbeige.FAMILY,
    ouro.FAMILY,
    llama.FAMILY,
    iquestcoder.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
)
_BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}
SERVED_MODEL_TYPES = tuple(_BY_TYPE)


def family_of(model_type: object) -> Family:
    """The family whose configs say this `model_type`.

    Raises:
        ConfigError: none does.
    """
    family = _BY_TYPE.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise ConfigError(
            f"config.json: model_type {shown(model_type)} is not served; "
            f"served are: {', '.join(SERVED_MODEL_TYPES)}."
        )
    return family
