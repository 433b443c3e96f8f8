"""Builds the image with buildah, which needs neither a daemon nor a registry, on a base made from Debian's packages.

The base stands in for python:3.11-slim-bookworm where no registry can be reached: the same distribution, with Debian's
Python 3.11 as `python` instead of one that was compiled for the image.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.image.container import Image

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/python:3.11-slim-bookworm"
TAG = "localhost/loopserve:cpu"
PACKAGES = "ca-certificates,python3,python3-venv,python3-pip"
APT_KEEPS_NOTHING = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
"""As in Docker's images of Debian."""
BASE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Layer:
    """One layer of an image: what made it, and its bytes before compression."""

    made_by: str
    size: int


@dataclass(frozen=True)
class Buildah:
    """buildah with a store of its own below `store`."""

    store: Path

    def __call__(self, *arguments: str) -> str:
        """Run a command of buildah; gives its output.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        command = (
            *("buildah", "--root", str(self.store / "storage"), "--runroot", str(self.store / "run")),
            *("--storage-driver", "overlay", *arguments),
        )
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()

    def make_base(self, mirror: str) -> None:
        """The stand-in for Python's image, unless the store has it."""
        if BASE in self("images", "--format", "{{.Name}}:{{.Tag}}").split():
            return
        tree = self.store / "base"
        if not (tree / "usr/local/bin/python").exists():
            options = ("--variant=minbase", f"--include={PACKAGES}")
            subprocess.run(("debootstrap", *options, "bookworm", str(tree), mirror), check=True)
            (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            (tree / "etc/apt/apt.conf.d/docker-clean").write_text(APT_KEEPS_NOTHING, encoding="utf-8")
            for left in ("var/cache/apt", "var/lib/apt/lists"):
                shutil.rmtree(tree / left)
        container = self("from", "scratch")
        self("add", "--quiet", container, str(tree), "/")
        self("config", "--env", f"PATH={BASE_PATH}", container)
        self("commit", "--quiet", container, BASE)
        self("rm", container)

    def build(self, options: Sequence[str]) -> None:
        """The target `cpu`, with further options of `buildah bud`."""
        revision = subprocess.run(
            ("git", "rev-parse", "HEAD"), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        self(
            *("bud", "--isolation", "chroot", "--format", "docker", "--layers", "--target", "cpu"),
            *("--build-arg", f"PYTHON_IMAGE={BASE}", "--build-arg", f"REVISION={revision}"),
            *(*options, "--tag", TAG, "."),
        )

    def mount(self) -> tuple[Image, str]:
        """The built image as a tree, and the name of the container to remove afterwards."""
        container = self("from", "--pull-never", TAG)
        config = json.loads(self("inspect", "--type", "image", TAG))["Docker"]["config"]
        return Image(Path(self("mount", container)), config), container

    def layers(self) -> list[Layer]:
        """Layers of the built image, the base's first."""
        found = json.loads(self("inspect", "--type", "image", TAG))
        known = json.loads((self.store / "storage/overlay-layers/layers.json").read_text())
        sizes = {layer["diff-digest"]: layer.get("diff-size", 0) for layer in known if "diff-digest" in layer}
        digests = iter(found["OCIv1"]["rootfs"]["diff_ids"])
        made = [step for step in found["OCIv1"]["history"] if not step.get("empty_layer")]
        return [Layer(step.get("created_by", ""), sizes[next(digests)]) for step in made]
