"""Look for what would spoil the course on this machine, and say in plain words what to do."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ctkd_lessons.course.lessons import ROOT
from ctkd_lessons.seeds import VARIABLE, course_seeds

# What a lesson needs; each is compared with the tested version in constraints.txt.
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "jupyterlab", "ipykernel", "ipywidgets", "nbval")
REINSTALL = "pip install -e . -c constraints.txt"


@dataclass(frozen=True)
class Diagnosis:
    """One thing looked at: is it ``fine``, ``what`` was found, and what to ``do`` if it is not."""

    fine: bool
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{'ok' if self.fine else 'PROBLEM':8} {self.what}" + (f"\n         → {self.do}" if self.do else "")


def examine(root: Path = ROOT) -> list[Diagnosis]:
    """Look at Python, the packages, the kernel, the folders and the settings."""
    return [
        _python(),
        *(_package(name, _tested(root)) for name in PACKAGES),
        _kernel(),
        _folder(root),
        _space(root),
        _seed(),
    ]


def _python() -> Diagnosis:
    version = tuple(sys.version_info[:2])
    found = f"Python {version[0]}.{version[1]} in {Path(sys.prefix).name}"
    if version >= (3, 11):
        return Diagnosis(True, found)
    return Diagnosis(False, found, "The course needs Python 3.11 or newer; install one and make a new environment.")


def _tested(root: Path) -> dict[str, str]:
    path = root / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("==") for line in (re.sub(r"\s*(;|#).*", "", line) for line in lines) if "==" in line)


def _package(name: str, tested: dict[str, str]) -> Diagnosis:
    try:
        version = metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return Diagnosis(False, f"{name} is not installed", f"Run: {REINSTALL}")
    if name in tested and version != tested[name]:
        return Diagnosis(False, f"{name} {version}, but the course was tested with {tested[name]}", f"Run: {REINSTALL}")
    return Diagnosis(True, f"{name} {version}")


def _kernel() -> Diagnosis:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # slow to load

    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Diagnosis(False, "Jupyter finds no kernel named python3", f"Run: {REINSTALL}")
    own = not os.path.isabs(command) or Path(command).parent.resolve() == Path(sys.executable).parent.resolve()
    if own:
        return Diagnosis(True, "the notebooks run in this environment")
    do = "Another python3 kernel comes first. Run: python -m ipykernel install --sys-prefix"
    return Diagnosis(False, f"the kernel python3 belongs to another environment ({command})", do)


def _folder(root: Path) -> Diagnosis:
    if not (root / "notebooks").is_dir() or not (root / "solutions").is_dir():
        return Diagnosis(False, "the course's notebooks are not beside the package", f"In its folder, run: {REINSTALL}")
    folder = root / "my_work" if (root / "my_work").exists() else root
    if os.access(folder, os.W_OK):
        return Diagnosis(True, "your work can be saved")
    return Diagnosis(
        False, f"the folder {folder.name} cannot be written to", "Copy the course to a folder of your own."
    )


def _space(root: Path) -> Diagnosis:
    free = shutil.disk_usage(root).free // 2**20
    do = "" if free >= 200 else "Free some space, or a notebook may be saved in half."
    return Diagnosis(free >= 200, "enough disk space" if free >= 200 else f"only {free} MiB of disk space are left", do)


def _seed() -> Diagnosis:
    try:
        first = course_seeds(1)[0]
    except ValueError as error:
        return Diagnosis(False, str(error), f"Unset {VARIABLE}, or give it a whole number.")
    shifted = f"{VARIABLE} = {os.environ.get(VARIABLE)}: your numbers differ from the printed ones"
    return Diagnosis(True, shifted if first else "the seeds are those of the printed numbers")
