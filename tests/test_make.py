"""The commands of the Makefile say what they do and stop with a sentence where they cannot."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments, folder=ROOT, installed=True):
    "Run make without installing anything: the environment of this test stands in for .venv"
    there = ["-o", ".venv/.stamp", f"BIN={BIN}"] if installed else []
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "--no-print-directory", *there, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path):
    "The files that check-export reads, in a folder that is no git repository"
    for name in ("Makefile", "settings.ini", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("eugene", "nbs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return tmp_path


def test_make_alone_lists_every_target():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    listed = set(re.findall(r"^  make ([a-z-]+) ", make().stdout, re.MULTILINE))
    assert listed == targets


def test_an_old_python_is_refused_with_a_way_out(tree):
    old = tree / "python2"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo Python 2.7.18 && exit 0\nexit 1\n")
    old.chmod(0o755)
    done = make("demo", f"PYTHON={old}", folder=tree, installed=False)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr and "Python 2.7.18" in done.stderr and "PYTHON=python3.12 demo" in done.stderr
    assert not (tree / ".venv").exists()


def test_check_export_passes_without_git_and_leaves_the_tree_alone(tree):
    assert make("export", folder=tree).returncode == 0
    before = {p: p.read_bytes() for part in ("eugene", "nbs") for p in (tree / part).rglob("*") if p.is_file()}
    done = make("check-export", folder=tree)
    assert done.returncode == 0, done.stdout + done.stderr
    assert before == {p: p.read_bytes() for part in ("eugene", "nbs") for p in (tree / part).rglob("*") if p.is_file()}


def test_check_export_fails_on_an_edited_module(tree):
    (tree / "eugene" / "core.py").write_text("edited = 'by hand'\n")
    done = make("check-export", folder=tree)
    assert done.returncode != 0
    assert "edited = 'by hand'" in done.stdout and "make export" in done.stderr


def test_check_export_fails_on_a_module_without_a_notebook(tree):
    (tree / "eugene" / "old.py").write_text("x = 1\n")
    done = make("check-export", folder=tree)
    assert done.returncode != 0 and "old.py" in done.stdout


def test_a_failing_notebook_fails_the_target(tree):
    shutil.rmtree(tree / "nbs")
    (tree / "nbs").mkdir()
    notebook = '{"cells": [{"cell_type": "code", "execution_count": null, "id": "a", "metadata": {}, "outputs": [], "source": "%s"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    (tree / "nbs" / "00_good.ipynb").write_text(notebook % "assert 1 + 1 == 2")
    done = make("notebooks", folder=tree)
    assert done.returncode == 0 and "notebooks: 1 passed" in done.stdout
    (tree / "nbs" / "01_bad.ipynb").write_text(notebook % "assert 1 + 1 == 3")
    done = make("notebooks", folder=tree)
    assert done.returncode != 0 and "01_bad.ipynb" in done.stderr and "passed" not in done.stdout


def test_kernels_compiled_for_other_code_are_not_used(tree):
    def folder():
        return re.search(r"\.cache/numba-[\d-]+", make("-p", "-n", "help", folder=tree).stdout)[0]
    before = folder()
    assert folder() == before
    (tree / "eugene" / "core.py").write_text("changed = True\n")
    assert folder() != before
