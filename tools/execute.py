"""Run notebooks anew and store what they show: `python tools/execute.py [NOTEBOOK ...]`, default all of `nbs/`.

Cells marked `#| slow`, `#| gpu`, `#| notest` or `#| eval: false` are not run and keep the output they have.
"""
import re
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def skipped_words(settings):
    "The words that mark a cell as not run, from `tst_flags` of `settings.ini`"
    parser = ConfigParser(delimiters=["="])
    parser.read(settings, encoding="utf-8")
    return parser["DEFAULT"]["tst_flags"].split()


def is_skipped(source, words):
    "Whether the directives at the head of a cell keep it from being run"
    pattern = rf"^#\|\s*({'|'.join(words)}|eval:\s*false)\s*$"
    return re.search(pattern, source, re.MULTILINE) is not None


class Runner(NotebookClient):
    "Runs a notebook, passing over the cells that are marked"
    words = skipped_words(ROOT / "settings.ini")

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        if cell.cell_type == "code" and is_skipped(cell.source, self.words):
            return cell
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def execute(path):
    "Run one notebook in its own folder and write it back with its new outputs"
    nb = nbformat.read(path, as_version=4)
    Runner(nb, timeout=900, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=40"], resources={"metadata": {"path": str(path.parent)}}).execute()
    nbformat.write(nb, path)


def main(names):
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    paths = [Path(name).resolve() for name in names] or [p for p in found if not p.name.startswith((".", "_"))]
    for path in paths:
        started = time.time()
        print(f"{path.relative_to(ROOT)} ...", end=" ", flush=True)
        execute(path)
        print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
