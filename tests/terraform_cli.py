"""Terraform for tests: found, configured to take the AWS provider from disk, run in a copy of the tree.

``CLOUDQ_TEST_TERRAFORM_MIRROR`` names a folder in Terraform's filesystem-mirror layout that holds
the AWS provider (``.ci/run`` searches for one), or is ``registry`` to download it. Without it, or
without Terraform, these tests skip by name: a machine that has neither is not broken.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import servers

TERRAFORM = servers.ROOT / "terraform"
MODULES = TERRAFORM / "modules"
EXAMPLES = TERRAFORM / "examples"
MIRROR = "CLOUDQ_TEST_TERRAFORM_MIRROR"
#: Modules on other clouds: their providers are not in the mirror, see their READMEs.
OTHER_CLOUDS = frozenset({"results-gcs", "results-azure"})


def folders(parent: Path) -> list[str]:
    """Names of the modules or examples there are."""
    return sorted(each.name for each in parent.iterdir() if (each / "main.tf").exists())


def command() -> str:
    """Terraform's path; skips when there is none, unless a mirror was promised."""
    found = shutil.which("terraform")
    if found is None:
        if os.environ.get(MIRROR):
            pytest.fail(f"{MIRROR} is set but there is no terraform on PATH")
        pytest.skip("terraform is not installed")
    return found


def mirror() -> str:
    """The mirror's folder, or ``registry``; skips when none is named."""
    given = os.environ.get(MIRROR)
    if not given:
        pytest.skip(f"{MIRROR} names no folder with the AWS provider (or 'registry', to download it)")
    if given != "registry" and not Path(given).is_dir():
        pytest.fail(f"{MIRROR}={given} is no folder")
    return given


@dataclass(frozen=True)
class Terraform:
    """Runs Terraform in a folder of a copy of ``terraform/``."""

    folder: Path
    env: Mapping[str, str]
    binary: str

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """One command, without colour or questions; its output is in the failure."""
        done = subprocess.run(
            [self.binary, *arguments],
            cwd=self.folder,
            env=dict(self.env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            pytest.fail(
                f"terraform {' '.join(arguments)} in {self.folder.name}: {done.returncode}\n"
                f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
            )
        return done

    def outputs(self) -> dict[str, Any]:
        """The values of all outputs, secret ones too."""
        found = json.loads(self.run("output", "-json").stdout)
        return {name: each["value"] for name, each in found.items()}


def prepare(folder: Path, name: str, **env: str) -> Terraform:
    """A copy of the tree in ``folder``, initialised in ``name`` (``modules/queue``)."""
    binary, where = command(), mirror()
    copied = folder / "terraform"
    shutil.copytree(
        TERRAFORM,
        copied,
        ignore=shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", ".build"),
    )
    config = folder / "terraform.tfrc"
    place = "direct {}" if where == "registry" else f'filesystem_mirror {{\n    path = "{where}"\n  }}'
    config.write_text(f"disable_checkpoint = true\nprovider_installation {{\n  {place}\n}}\n")
    variables = servers.environment(
        TF_CLI_CONFIG_FILE=str(config), TF_IN_AUTOMATION="1", TF_INPUT="0", CHECKPOINT_DISABLE="1", **env
    )
    variables = {key: value for key, value in variables.items() if not key.startswith("TF_CLI_ARGS")}
    made = Terraform(copied / name, variables, binary)
    made.run("init", "-no-color")
    return made
