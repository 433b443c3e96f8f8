"""What each layer of the image installs."""

import tomllib
from pathlib import Path

import pytest

from tools.image.requirements import main, split

ROOT = Path(__file__).resolve().parents[3]


def test_layers_together_are_the_projects_dependencies(tmp_path: Path) -> None:
    main(ROOT / "pyproject.toml", tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = {path.name: path.read_text().splitlines() for path in tmp_path.iterdir()}
    assert sorted(files["torch.txt"] + files["cpu.txt"]) == sorted(project["dependencies"])
    extras = project["optional-dependencies"]
    assert files["cuda.txt"] == files["cpu.txt"] + extras["cuda"] + extras["quantization"]


@pytest.mark.parametrize("torch", [[], ["torch>=2"], ["torch==2.13.0", "torch==2.12.0"], ["torch==2.13.*"]])
def test_torch_is_pinned_once(torch: list[str]) -> None:
    extras: dict[str, list[str]] = {"cuda": [], "quantization": []}
    with pytest.raises(ValueError, match="must pin torch once"):
        split({"dependencies": ["torchao>=1", *torch], "optional-dependencies": extras})
