"""The package builds, says the same about itself everywhere, and can be imported from where it is installed."""
import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["settings.ini", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "eugene", "nbs", "tests"]


@pytest.fixture(scope="module")
def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A wheel and a source distribution, built from a copy with the tools of the environment (no network)"
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(dist.glob("*.whl")), next(dist.glob("*.tar.gz"))


def modules(folder):
    return {p.relative_to(folder.parent).as_posix() for p in folder.rglob("*.py")}


def test_the_wheel_holds_every_module_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == modules(ROOT / "eugene")


def test_the_source_distribution_can_be_built_from_and_read(built):
    with tarfile.open(built[1]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    notebooks = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith(".") and ".ipynb_checkpoints" not in p.parts}
    missing = ({"settings.ini", "setup.py", "README.md", "LICENSE", "CITATION.cff"} | modules(ROOT / "eugene") | notebooks) - inside
    assert not missing
    assert not [name for name in inside if name.startswith("tests/")]


def test_the_metadata_are_those_of_the_settings(built, settings):
    with zipfile.ZipFile(built[0]) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_string(wheel.read(name).decode("utf-8"))
    assert metadata["Name"] == settings["lib_name"]
    assert metadata["Version"] == settings["version"]
    assert metadata["Requires-Python"] == f">={settings['min_python']}"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    required = {re.split(r"[<>=;\[ ]", line)[0].lower() for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    asked = {re.split(r"[<>=\[]", line.strip())[0].lower() for line in settings["requirements"].splitlines() if line.strip()}
    assert required == asked
    assert set(metadata.get_all("Provides-Extra")) == {key.removesuffix("_requirements") for key in settings if key.endswith("_requirements")}


def test_the_version_is_the_same_everywhere(settings):
    version = settings["version"]
    code = "import eugene; print(eugene.__version__)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_wheel_installs_and_imports_from_there(built, settings, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(built[0])]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = f"import sys; sys.path.insert(0, {str(target)!r}); import eugene, eugene.core; print(eugene.__file__, eugene.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True).stdout.split()
    assert shown == [str(target / "eugene" / "__init__.py"), settings["version"]]
