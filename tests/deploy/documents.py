"""The YAML files of deploy/, and how Compose and kustomize lay one over another."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
_MERGE_KEYS = ("name", "mountPath")


def documents(path: Path) -> list[Any]:
    """All documents of a file below deploy/."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text(encoding="utf-8")))


def overlaid(base: Any, patch: Any) -> Any:
    """`patch` over `base`: mappings by key, lists of named things by name, all else replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {
            key: overlaid(base[key], value) if key in base else value for key, value in patch.items()
        }
    key = _merge_key(base, patch)
    if key is None:
        return patch
    named = {item[key]: item for item in base}
    for item in patch:
        named[item[key]] = overlaid(named.get(item[key], {}), item)
    return list(named.values())


def _merge_key(*lists: Any) -> str | None:
    items = [item for values in lists if isinstance(values, list) for item in values]
    if not all(isinstance(values, list) for values in lists) or not all(
        isinstance(item, dict) for item in items
    ):
        return None
    # mountPath first: mounts of one volume at two places share its name
    return next((key for key in reversed(_MERGE_KEYS) if all(key in item for item in items)), None)
