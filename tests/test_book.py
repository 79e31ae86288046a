"""The book keeps its rules, and the rules can fail: each is shown to find its mistake in a small broken book."""
import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from book_rules import RULES, find_out_of_sync, load_book

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def book():
    return load_book(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_book_keeps_the_rule(rule, book):
    found = rule(book)
    assert not found, "\n  ".join([f"{rule.__doc__}.", *found])


# ---------------------------------------------------------------- a small sound book

SETTINGS = """[DEFAULT]
lib_name = eugene
title = toy
user = toy
repo = toy
description = A book of four chapters
author = nobody
author_email = nobody@example.org
copyright = none
keywords = toy
branch = main
version = 0.0.1
min_python = 3.11
audience = Science/Research
language = English
license = mit
status = 3
nbs_path = nbs
lib_path = eugene
doc_path = _docs
recursive = True
tst_flags = notest slow gpu
put_version_in_init = True
update_pyproject = False
clean_ids = True
jupyter_hooks = False
allowed_cell_metadata_keys = tags
doc_host = https://example.org
doc_baseurl = /toy
git_url = https://example.org/toy
custom_sidebar = False
"""
PROSE = "A base count says how many letters of one kind a sequence has, which is all that this small book is about. " * 2
CORE = '''#| export
def double(
    n:int,   # A number of bases
) -> int:    # Twice as many
    "Twice `n`"
    return 2 * n'''
COUNTS = '''#| export
def count(
    seq:str,         # A sequence
    letter:str="A",  # The base to count
) -> int:            # How often it occurs
    "Occurrences of one base"
    return double(seq.count(letter)) // 2'''
RESULT = '''#| export
class Counted(NamedTuple):
    "A sequence and its count"
    seq:str  # The sequence
    n:int    # Bases counted

    def share(
        self,
        digits:int=2,  # Decimals
    ) -> float:        # Between 0 and 1
        "The counted bases as a share of the length"
        return round(self.n / len(self.seq), digits)'''
LAYER = '''#| export
class Scale(Module):
    "Multiplies by a constant"
    def __init__(
        self,
        factor:float,  # What to multiply by
    ):
        super().__init__()
        self.factor = factor

    def forward(
        self,
        x:float,  # Any number
    ) -> float:   # `factor * x`
        "`factor * x`"
        return double(self.factor) * x / 2

    def on_train_start(self, trainer):
        "A hook, whose parameters the base class fixes"'''
CHAPTERS = {
    "nbs/index.ipynb": ["# toy\n\n> A book of four chapters", PROSE],
    "nbs/00_core.ipynb": ["# Core\n\n> What every chapter shares", "#| default_exp core", PROSE, CORE, "double(2)", "assert double(2) == 4"],
    "nbs/01_etl/00_part.ipynb": ["# Data\n\n> The first part", PROSE],
    "nbs/01_etl/01_counts.ipynb": [
        "# Counts\n\n> How many bases", "#| default_exp etl.counts", "#| export\nfrom typing import NamedTuple\nfrom eugene.core import double",
        PROSE, COUNTS, "count('ACA')", "assert count('ACA') == 2", PROSE, RESULT, "Counted('ACA', 2).share()", "assert Counted('ACA', 2).share() == .67"],
    "nbs/01_etl/02_pairs.ipynb": ["# Pairs\n\n> Two bases", "#| default_exp etl.pairs", PROSE, "import eugene\nfrom eugene import __version__\neugene.__version__", "#| export\nPAIR = 'CG'", "PAIR", "assert len(PAIR) == 2"],
    "nbs/02_layers/01_scale.ipynb": [
        "# Scale\n\n> One layer", "#| default_exp layers.scale", "#| export\nfrom json import JSONEncoder as Module\nfrom eugene.core import double",
        PROSE, PROSE, LAYER, "Scale(2.).forward(1.)", "assert Scale(2.).forward(1.) == 2."],
    "nbs/tutorials/01_counting.ipynb": ["# Counting\n\n> Led by the hand", "import eugene as eu\nfrom eugene.layers.scale import Scale\nfrom eugene.etl.counts import count", PROSE, "count('ACA'), eu.core.double(2)", "assert eu.core.double(2) == 4"],
    "nbs/99_face.ipynb": ["# Face\n\n> All names in one place", "#| default_exp __init__", PROSE, "#| export\n__all__ = []", "assert True"],
}


def notebook(sources):
    "A clean notebook as nbdev would store it; what begins with a heading or is prose becomes markdown"
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}})
    for n, source in enumerate(sources):
        markdown = source.startswith("# ") or source == PROSE
        cell = nbformat.v4.new_markdown_cell(source) if markdown else nbformat.v4.new_code_cell(source)
        if not markdown and not source.startswith("#|"):
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="shown\n")]
        cell["id"] = f"cell-{n}"
        nb.cells.append(cell)
    return nb


def write(path, nb):
    path.parent.mkdir(parents=True, exist_ok=True)
    for cell in nb["cells"]:
        if isinstance(cell["source"], str):
            cell["source"] = cell["source"].splitlines(keepends=True)
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    "A small book that breaks no rule, exported by nbdev"
    root = tmp_path_factory.mktemp("sound")
    (root / "settings.ini").write_text(SETTINGS)
    (root / "README.md").write_text("# toy\n")
    (root / ".gitignore").write_text(".cache/\n*.egg-info/\n")
    for path, sources in CHAPTERS.items():
        write(root / path, notebook(sources))
    code = "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
    return root


def test_a_sound_book_breaks_no_rule(sound):
    assert {rule.__name__: found for rule in RULES if (found := rule(load_book(sound)))} == {}


# ---------------------------------------------------------------- and what can be wrong with it

def replace(path, old, new):
    "Change the source of one cell"
    def change(root):
        nb = json.loads((root / path).read_text())
        hits = [cell for cell in nb["cells"] if old in "".join(cell["source"])]
        assert hits, f"{old!r} is not in {path}"
        hits[0]["source"] = "".join(hits[0]["source"]).replace(old, new)
        write(root / path, nb)
    return change


def add(path, source, outputs=(), copies=1):
    "Add a cell at the end"
    def change(root):
        nb = json.loads((root / path).read_text())
        for n in range(copies):
            nb["cells"].append(dict(cell_type="code", execution_count=None, id=f"new-{n}", metadata={}, outputs=list(outputs), source=source))
        write(root / path, nb)
    return change


def edit(path, change):
    "Change a notebook's whole structure"
    def change_file(root):
        nb = json.loads((root / path).read_text())
        change(nb)
        write(root / path, nb)
    return change_file


def file(path, text):
    "Add or overwrite a file that is no notebook"
    def change(root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return change


def rename(old, new):
    def change(root):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)
    return change


def code(body):
    "An exported function with this body, well documented"
    return f'#| export\ndef added(\n    x:int, # A number\n) -> int: # Another\n    "Something"\n{body}\n    return x'


def figure(size):
    return dict(output_type="display_data", metadata={}, data={"image/png": base64.b64encode(b"x" * size).decode()})


CORE_NB, COUNTS_NB, PAIRS_NB, LAYER_NB, TUTORIAL_NB = "nbs/00_core.ipynb", "nbs/01_etl/01_counts.ipynb", "nbs/01_etl/02_pairs.ipynb", "nbs/02_layers/01_scale.ipynb", "nbs/tutorials/01_counting.ipynb"
STDERR = dict(output_type="stream", name="stderr", text="UserWarning: hm\n")
ERROR = dict(output_type="error", ename="ValueError", evalue="no", traceback=[])
SLASH = "/"

BROKEN = [
    # rule, what was done to the book, a word of the finding
    ("find_forward_imports", add(COUNTS_NB, "from eugene.etl.pairs import PAIR"), "etl.pairs, which is written later"),
    ("find_forward_imports", add(COUNTS_NB, "from eugene.layers import scale"), "layers.scale, which is written later"),
    ("find_forward_imports", add(CORE_NB, "#| export\ndef f() -> None:\n    'Late'\n    import eugene.etl.counts"), "etl.counts"),
    ("find_forward_imports", add(COUNTS_NB, "import eugene as eu\neu.double(2)"), "the face"),
    ("find_forward_imports", add(COUNTS_NB, "from eugene import double"), "the face"),
    ("find_forward_imports", add(COUNTS_NB, "from eugene.etl.nothing import x"), "no chapter exports"),
    ("find_misnamed_chapters", rename(PAIRS_NB, "nbs/01_etl/02_couples.ipynb"), "its path says etl.couples"),
    ("find_misnamed_chapters", rename(PAIRS_NB, "nbs/01_etl/pairs.ipynb"), "NN_name"),
    ("find_misnamed_chapters", rename(PAIRS_NB, "nbs/01_data/02_pairs.ipynb"), "the parts are"),
    ("find_misnamed_chapters", rename(PAIRS_NB, "nbs/01_etl/01_pairs.ipynb"), "has the number 01"),
    ("find_misnamed_chapters", replace(PAIRS_NB, "#| default_exp etl.pairs", "PAIR = 1"), "default_exp is None"),
    ("find_misnamed_chapters", add("nbs/01_etl/00_part.ipynb", "#| export\nX = 1"), "exports nothing"),
    ("find_misnamed_chapters", add(TUTORIAL_NB, "#| export\nX = 1"), "a tutorial leads through the book and exports nothing"),
    ("find_misnamed_chapters", rename(TUTORIAL_NB, "nbs/tutorials/counting.ipynb"), "a tutorial nbs/tutorials/NN_name.ipynb"),
    ("find_misnamed_chapters", lambda root: shutil.copy(root / TUTORIAL_NB, root / "nbs/tutorials/01_again.ipynb"), "has the number 01"),
    ("find_forward_imports", add(TUTORIAL_NB, "from eugene.etl.nothing import x"), "no chapter exports"),
    ("find_silent_chapters", replace(TUTORIAL_NB, "assert eu.core.double(2) == 4", "eu.core.double(2)"), "claims much and asserts nothing"),
    ("find_unexecuted", edit(TUTORIAL_NB, lambda nb: [c.update(outputs=[]) for c in nb["cells"] if "outputs" in c]), "without any output"),
    ("find_duplicate_modules", replace(PAIRS_NB, "etl.pairs", "etl.counts"), "etl.counts"),
    ("find_stale_modules", file("eugene/etl/old.py", "X = 1\n"), "eugene/etl/old.py"),
    ("find_stale_modules", lambda root: (root / "eugene/etl/pairs.py").unlink(), "is not there"),
    ("find_out_of_sync", file("eugene/core.py", "def double(n): return n\n"), "eugene/core.py"),
    ("find_out_of_sync", replace(PAIRS_NB, "PAIR = 'CG'", "PAIR = 'AT'"), "eugene/etl/pairs.py"),
    ("find_out_of_sync", edit(PAIRS_NB, lambda nb: nb["cells"][-1].update(execution_count=7)), "02_pairs.ipynb"),
    ("find_missing_anatomy", replace(PAIRS_NB, "\n\n> Two bases", ""), "summary"),
    ("find_missing_anatomy", edit(PAIRS_NB, lambda nb: nb["cells"].insert(1, nb["cells"].pop(4))), "default_exp"),
    ("find_silent_chapters", replace(CORE_NB, "assert double(2) == 4", "double(2)"), "asserts nothing"),
    ("find_thin_prose", edit(CORE_NB, lambda nb: nb["cells"].pop(2)), "words of prose"),
    ("find_mixed_imports", replace(CORE_NB, "#| export\n", "#| export\nimport json\n"), "other code"),
    ("find_crowded_cells", replace(CORE_NB, CORE, CORE + "\n\ndef second() -> None:\n    'Two'"), "double, second"),
    ("find_long_cells", add(CORE_NB, "#| export\n" + "x = 1\n" * 60), "61 lines"),
    ("find_long_functions", add(CORE_NB, code("    x = x + 1\n" * 40)), "added has 42 lines"),
    ("find_large_files", add(CORE_NB, "0", [figure(100_001)]), "a figure of 100 kB"),
    ("find_large_files", add(CORE_NB, "# " + "x" * 100_000, copies=4), "at most 400"),
    ("find_noisy_outputs", add(CORE_NB, "0", [STDERR]), "UserWarning"),
    ("find_noisy_outputs", add(CORE_NB, "0", [ERROR]), "ValueError: no"),
    ("find_unexecuted", edit(CORE_NB, lambda nb: [c.update(outputs=[]) for c in nb["cells"] if "outputs" in c]), "without any output"),
    ("find_invalid_notebooks", edit(CORE_NB, lambda nb: nb["cells"][1].update(id="cell-0")), "have the id cell-0"),
    ("find_invalid_notebooks", edit(CORE_NB, lambda nb: nb["cells"][1].update(cell_type="poem")), "00_core"),
    ("find_invalid_notebooks", lambda root: (root / CORE_NB).write_text(json.dumps(json.loads((root / CORE_NB).read_text()) | {"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# A\n\n> b"}]})), "one long line"),
    ("find_invalid_notebooks", edit(CORE_NB, lambda nb: nb["metadata"]["kernelspec"].update(name="my-env")), "python3"),
    ("find_undocumented", replace(COUNTS_NB, '    "Occurrences of one base"\n', ""), "count: no docstring"),
    ("find_undocumented", replace(COUNTS_NB, "  # The base to count", ""), "letter has no comment"),
    ("find_undocumented", replace(COUNTS_NB, "seq:str,         # A sequence", "seq,         # A sequence"), "seq has no type"),
    ("find_undocumented", replace(COUNTS_NB, "seq:str,         # A sequence\n    ", "seq:str, "), "shares a line"),
    ("find_undocumented", replace(COUNTS_NB, ") -> int:            #", "):  #"), "count: no return type"),
    ("find_undocumented", replace(COUNTS_NB, "  # Decimals", ""), "share: digits has no comment"),
    ("find_undocumented", replace(COUNTS_NB, '        "The counted bases as a share of the length"\n', ""), "share: no docstring"),
    ("find_undocumented", replace(COUNTS_NB, "    # Bases counted", ""), "field n has no comment"),
    ("find_undocumented", replace(LAYER_NB, "  # What to multiply by", ""), "__init__: factor has no comment"),
    ("find_undocumented", replace(LAYER_NB, '    "Multiplies by a constant"\n', ""), "Scale: no docstring"),
    ("find_undocumented", add(LAYER_NB, "#| export\nclass Watch(Module):\n    'Watches'\n    def on_start(self, trainer): pass"), "Watch: on_start: no docstring"),
    ("find_odd_names", replace(COUNTS_NB, 'letter:str="A"', 'verbose:str="A"'), "the word here is progress"),
    ("find_unused_parameters", replace(COUNTS_NB, "seq.count(letter)", "seq.count('A')"), "nothing with letter"),
    ("find_unused_parameters", replace(LAYER_NB, "self.factor = factor", "self.factor = 2"), "nothing with factor"),
    ("find_misplaced_libraries", add(COUNTS_NB, "#| export\nimport torch"), "torch does not belong in etl.counts"),
    ("find_misplaced_libraries", add(LAYER_NB, code("    from pandas import DataFrame")), "pandas does not belong in layers.scale"),
    ("find_misplaced_libraries", add(COUNTS_NB, "#| export\nimport matplotlib.pyplot as plt"), "matplotlib inside the function"),
    ("find_misplaced_libraries", add(LAYER_NB, "#| export\nimport pytorch_lightning as pl"), "pytorch_lightning inside"),
    ("find_forbidden_code", add(CORE_NB, code("    print(x)")), "prints"),
    ("find_forbidden_code", add(CORE_NB, code("    assert x")), "asserts"),
    ("find_forbidden_code", add(CORE_NB, code("    try: x += 1\n    except: pass")), "bare except"),
    ("find_forbidden_code", add(CORE_NB, code("    global y")), "global state"),
    ("find_forbidden_code", add(CORE_NB, code("    raise NotImplementedError")), "NotImplementedError"),
    ("find_forbidden_code", add(CORE_NB, "#| export\n@patch\ndef f(self:int) -> int: # x\n    'Patched'\n    return self"), "@patch"),
    ("find_forbidden_code", add(CORE_NB, code("    x = np.random.normal(x)")), "global generator"),
    ("find_forbidden_code", add(CORE_NB, code("    plt.show()")), "the caller decides"),
    ("find_forbidden_code", add(CORE_NB, "#| export\nfrom json import *"), "import *"),
    ("find_forbidden_code", add(CORE_NB, "#| export\nfrom fastcore.basics import store_attr"), "fastcore.basics"),
    ("find_forbidden_code", replace(CORE_NB, "n:int,   #", "n:int={},   #"), "a default that can change"),
    ("find_forbidden_code", add(CORE_NB, code("    # TO" + "DO later")), "TO" + "DO"),
    ("find_machine_paths", file("use_cases/run.py", f"data = '{SLASH}home{SLASH}someone{SLASH}data.tsv'\n"), "someone"),
    ("find_machine_paths", add(CORE_NB, "0", [dict(output_type="stream", name="stdout", text=f"read {SLASH}work{SLASH}x\n")]), "00_core"),
    ("find_banned_words", file("CONTRIBUTING.md", "Get it from py" + "pi.org\n"), "CONTRIBUTING.md"),
    ("find_banned_words", replace(CORE_NB, "What every chapter shares", "As iss" + "ue #2 asks"), "ue #2"),
]


def test_every_rule_is_shown_to_fail():
    assert {name for name, _, _ in BROKEN} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize("name, breaks, word", BROKEN, ids=[f"{name.removeprefix('find_')}-{word}" for name, _, word in BROKEN])
def test_a_broken_book_is_found_out(name, breaks, word, sound, tmp_path):
    root = tmp_path / "book"
    shutil.copytree(sound, root)
    breaks(root)
    rule = next(rule for rule in RULES if rule.__name__ == name)
    assert any(word in line for line in rule(load_book(root))), rule(load_book(root))


def test_what_git_ignores_is_not_read(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "book")
    file(".cache/log.txt", f"{SLASH}home{SLASH}someone")(tmp_path / "book")
    file("toy.egg-info/log.txt", f"{SLASH}home{SLASH}someone")(tmp_path / "book")
    rule = next(rule for rule in RULES if rule.__name__ == "find_machine_paths")
    assert rule(load_book(tmp_path / "book")) == []


def test_sync_leaves_the_tree_alone(sound, tmp_path):
    root = tmp_path / "book"
    shutil.copytree(sound, root)
    file("eugene/core.py", "edited = 'by hand'\n")(root)
    assert find_out_of_sync(load_book(root))
    assert (root / "eugene/core.py").read_text() == "edited = 'by hand'\n"


# ---------------------------------------------------------------- the package as it is imported

def python(code):
    "Run code in a fresh interpreter of its own and return what it prints"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import eugene; print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    assert python(code) == "eugene"


def test_the_face_is_a_readable_table_of_contents():
    names = python("import eugene; print(*dir(eugene))").split()
    assert names, "dir(eugene) is empty"
    assert [n for n in names if n.startswith("_") and n != "__version__"] == []


def test_every_name_of_the_face_is_there():
    python("import eugene\nfor name in dir(eugene): getattr(eugene, name)")


def test_a_name_the_face_has_not_is_an_attribute_error():
    assert python("import eugene\ntry: eugene.no_such_verb\nexcept AttributeError as e: print(e)") != ""


@pytest.mark.parametrize("part, heavy", [("etl", "torch"), ("layers", "pytorch_lightning"), ("models", "pytorch_lightning"), ("interpretation", "pytorch_lightning")])
def test_a_part_does_not_load_what_it_does_without(part, heavy, book):
    modules = [f"eugene.{c.module}" for c in book.chapters if c.module and c.module.startswith(f"{part}.") and c.module != "etl.loading"]
    assert modules, f"no chapters in {part}"
    assert python(f"import sys, {', '.join(modules)}; print({heavy!r} in sys.modules)") == "False"
