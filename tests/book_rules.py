"""The rules of the book, each a function `find_*(book)` that returns what breaks it, one line a finding.

`tests/test_book.py` holds the book to them, and shows on a small broken book that each of them can fail.
`python tests/book_rules.py` lists what it finds, and a table of the chapters' sizes.
"""
import ast
import base64
import functools
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import nbformat

PARTS = ("core", "etl", "layers", "models", "training", "interpretation", "face")
CELL_LINES, FUNCTION_LINES = 60, 40
NOTEBOOK_BYTES, FIGURE_BYTES = 400_000, 100_000
EXECUTED_BYTES = 1_200_000  # of a page of a use case, which holds every panel of a figure of the paper
WORDS_PER_LINE = 1.5  # floor of prose words per exported line; the aim is 3
TEXT = {".py", ".ipynb", ".md", ".ini", ".yaml", ".yml", ".toml", ".cfg", ".cff", ".txt", ".in", ".sh", ""}
ASSERTING = re.compile(r"\bassert\b|\btest_(eq|close|ne|fail|is|shuffled)\b|\bexpect_fail\b|(np|numpy|torch)\.testing\.")


# ---------------------------------------------------------------- the book

class Cell(NamedTuple):
    number: int       # place in the notebook, from 1
    kind: str         # code or markdown
    source: str
    outputs: list     # as in the notebook file

    @property
    def directives(self):
        "The words after `#|`, `default_exp` and its value included"
        return [line[2:].strip() for line in self.source.splitlines() if line.startswith("#|")]

    @property
    def exported(self):
        return self.kind == "code" and any(re.match(r"exports?i?\b", d) for d in self.directives)

    @property
    def lines(self):
        return [line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")]

    @property
    def tree(self):
        return parse(self.source)


class Chapter(NamedTuple):
    path: str         # from the root of the repository, with forward slashes
    cells: list
    size: int         # bytes of the file

    @property
    def exported(self):
        return [cell for cell in self.cells if cell.exported]

    @property
    def module(self):
        "What `default_exp` says, as far as it is there"
        words = [d.split() for cell in self.cells for d in cell.directives]
        return next((w[1] for w in words if len(w) > 1 and w[0] == "default_exp"), None)

    def at(self, cell, line=None):
        "Where something stands, for a message"
        inside = f", line {line}" if line else ""
        return f"{self.path}, cell {cell.number}{inside}"


class Book(NamedTuple):
    root: Path
    chapters: list    # of nbs/, in order
    notebooks: list   # every notebook, those of the use cases too

    def chapter_of(self):
        return {c.module: c for c in self.chapters if c.module}


@functools.lru_cache(maxsize=None)
def parse(source):
    "The syntax tree of a cell; lines of the notebook shell count as `pass`"
    plain = re.sub(r"^(\s*)[%!?].*$", r"\1pass", source, flags=re.MULTILINE)
    return ast.parse(plain)


def load_notebook(path, root):
    raw = path.read_text(encoding="utf-8")
    cells = [Cell(n, c["cell_type"], "".join(c["source"]), c.get("outputs", [])) for n, c in enumerate(json.loads(raw)["cells"], 1)]
    return Chapter(path.relative_to(root).as_posix(), cells, len(raw.encode()))


def load_book(root):
    "Every notebook under `root`, read once"
    root = Path(root)
    paths = [p for part in ("nbs", "use_cases") for p in sorted((root / part).rglob("*.ipynb"))]
    paths = [p for p in paths if not any(piece.startswith((".", "_")) for piece in p.relative_to(root).parts)]
    notebooks = [load_notebook(p, root) for p in paths]
    return Book(root, [c for c in notebooks if c.path.startswith("nbs/")], notebooks)


def ignored_names(root):
    "Folder and file patterns of `.gitignore` (the plain ones used here)"
    file = Path(root) / ".gitignore"
    return {line.strip().rstrip("/") for line in file.read_text().splitlines() if line.strip()} if file.exists() else set()


def text_files(root):
    "Files of the repository that people read, without what git ignores"
    root = Path(root)
    skipped = ignored_names(root) | {".git"}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part in skipped or Path(part).match(s) for part in parts for s in skipped):
            continue
        if path.is_file() and path.suffix in TEXT:
            yield path


def readable(path):
    "A file's text; of a notebook the sources and the outputs without the pictures"
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8", errors="replace")
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        parts.append("".join(cell["source"]))
        for output in cell.get("outputs", []):
            shown = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            parts += ["".join(v) if isinstance(v, list) else str(v) for v in (*shown.values(), output.get("text", ""), *output.get("traceback", []))]
    return "\n".join(parts)


# ---------------------------------------------------------------- order

def is_tutorial(path):
    "Tutorials lead through the book: they come after all of it, use its face, and export nothing"
    return path.startswith("nbs/tutorials/")


def place(path):
    "A chapter's place in the book, from the numbers of its path; tutorials have none"
    return () if is_tutorial(path) else tuple(int(n) for n in re.findall(r"(?:^|/)(\d\d)_", path))


def imported_modules(tree):
    "What a cell imports of the package, anywhere in it: `eugene.module` or `eugene.module.name`, with the line"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "eugene":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "eugene":
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def uses_face(chapter):
    "Whether a chapter reaches for `eugene.<verb>`; `eugene.__version__` and the like cost nothing"
    trees = [cell.tree for cell in chapter.cells if cell.kind == "code"]
    names = {a.asname or a.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.name == "eugene"}
    used = {n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in names}
    return any(not name.startswith("__") for name in used)


def find_forward_imports(book):
    "A chapter imports from earlier chapters only, and only what some chapter exports"
    found, chapters = [], book.chapter_of()
    packages = {m.rpartition(".")[0] for m in chapters}
    for chapter in book.chapters:
        if not place(chapter.path) and not is_tutorial(chapter.path):
            continue  # the map of the book uses all of it
        face = uses_face(chapter)
        for cell in chapter.cells:
            if cell.kind != "code":
                continue
            for name, line in imported_modules(cell.tree):
                name = name.removeprefix("eugene").strip(".")
                module = name if name in chapters else name.rpartition(".")[0]
                if module in chapters:
                    if not is_tutorial(chapter.path) and place(chapters[module].path) > place(chapter.path):
                        found.append(f"{chapter.at(cell, line)}: imports eugene.{module}, which is written later ({chapters[module].path})")
                elif chapter.module == "__init__" or name == "__version__" or (name == "" and not face):
                    continue
                elif module == "":
                    if not is_tutorial(chapter.path): found.append(f"{chapter.at(cell, line)}: imports the face; import from the chapter that is needed")
                elif name not in packages:
                    found.append(f"{chapter.at(cell, line)}: imports eugene.{name}, which no chapter exports")
    return found


def expected_module(path):
    "The module a notebook's path stands for: its numbers dropped"
    pieces = [re.sub(r"^\d\d_", "", piece) for piece in Path(path).with_suffix("").parts[1:]]
    return "__init__" if pieces == ["face"] else ".".join(pieces)


def find_misnamed_chapters(book):
    "Every notebook has a number, sits in its part, and exports the module that its path says"
    found, seen = [], Counter()
    for chapter in book.chapters:
        pieces = Path(chapter.path).parts[1:]
        if pieces == ("index.ipynb",):
            continue
        if is_tutorial(chapter.path) and (chapter.exported or chapter.module):
            found.append(f"{chapter.path}: a tutorial leads through the book and exports nothing")
        numbered = pieces[1:] if is_tutorial(chapter.path) else pieces
        if len(pieces) > 2 or not all(re.fullmatch(r"\d\d_[a-z][a-z0-9_]*(\.ipynb)?", piece) for piece in numbered):
            found.append(f"{chapter.path}: a chapter is nbs/NN_part/NN_name.ipynb in small letters, a tutorial nbs/tutorials/NN_name.ipynb")
            continue
        if len(numbered) == 2 and (number := int(pieces[0][:2])) and pieces[0][3:] != (PARTS[number] if number < len(PARTS) - 1 else None):
            found.append(f"{chapter.path}: the parts are {', '.join(f'{n:02}_{p}' for n, p in enumerate(PARTS[:-1]) if n)}")
        seen[(*pieces[:-1], pieces[-1][:2])] += 1
        if seen[(*pieces[:-1], pieces[-1][:2])] == 2:
            found.append(f"{chapter.path}: another chapter of this folder has the number {pieces[-1][:2]}")
        expected = expected_module(chapter.path)
        if chapter.exported and not is_tutorial(chapter.path) and chapter.module != expected:
            found.append(f"{chapter.path}: its default_exp is {chapter.module}, its path says {expected}")
        if pieces[-1] == "00_part.ipynb" and (chapter.exported or chapter.module):
            found.append(f"{chapter.path}: an opening of a part is prose and exports nothing")
    return found


def find_duplicate_modules(book):
    "No two notebooks export the same module"
    counts = Counter(d.split()[1] for c in book.chapters for cell in c.cells for d in cell.directives if d.startswith("default_exp "))
    return [f"{n} notebooks have `default_exp {module}`" for module, n in counts.items() if n > 1]


# ---------------------------------------------------------------- sync

def find_stale_modules(book):
    "Every module of the package has a notebook, and every exporting notebook a module"
    package = book.root / "eugene"
    there = {p.relative_to(package).with_suffix("").as_posix().replace("/", ".") for p in package.rglob("*.py")}
    made = {c.module for c in book.chapters if c.module}
    free = {m for m in there if m.endswith("__init__")} | {"_modidx"}
    return ([f"eugene/{m.replace('.', '/')}.py: no notebook exports it; delete it" for m in sorted(there - made - free)]
            + [f"eugene/{m.replace('.', '/')}.py: a notebook exports it and it is not there" for m in sorted(made - there)])


def find_out_of_sync(book):
    "What nbdev exports and cleans is, byte for byte, what lies in the tree"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(book.root / "settings.ini", copy)
        shutil.copytree(book.root / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".*"))
        code = "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
        done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
        if done.returncode:
            return [f"nbdev could not export the notebooks: {done.stderr.strip().splitlines()[-1:]}"]
        found = []
        for part, suffix in (("eugene", "*.py"), ("nbs", "*.ipynb")):
            ours = {p.relative_to(book.root).as_posix(): p for p in (book.root / part).rglob(suffix) if not any(x.startswith(".") for x in p.relative_to(book.root).parts)}
            made = {p.relative_to(copy).as_posix(): p for p in (copy / part).rglob(suffix)}
            for name in sorted(ours.keys() | made.keys()):
                if name not in made or name not in ours or ours[name].read_bytes() != made[name].read_bytes():
                    found.append(f"{name}: is not what the notebooks give; run `make export`")
        return found


# ---------------------------------------------------------------- anatomy

def find_missing_anatomy(book):
    "A notebook opens with `# Title` and `> summary`; an exporting one goes on with `default_exp`"
    found = []
    for chapter in book.notebooks:
        first = chapter.cells[0] if chapter.cells else None
        if first is None or first.kind != "markdown" or not re.match(r"# \S.*\n\n> \S", first.source):
            found.append(f"{chapter.path}: the first cell is `# Title`, an empty line, `> summary in one line`")
        code = [cell for cell in chapter.cells if cell.kind == "code"]
        if chapter.exported and not any(d.startswith("default_exp ") for d in code[0].directives):
            found.append(f"{chapter.path}: the first code cell of an exporting notebook is `#| default_exp ...`")
    return found


def find_silent_chapters(book):
    "A chapter that exports something also asserts something, and so does a tutorial"
    return [f"{c.path}: {'exports code' if c.exported else 'claims much'} and asserts nothing" for c in book.chapters if c.module != "__init__" and (c.exported or is_tutorial(c.path))
            and not any(ASSERTING.search(cell.source) for cell in c.cells if cell.kind == "code" and not cell.exported)]


def find_thin_prose(book):
    "Prose keeps up with code"
    found = []
    for chapter in book.chapters:
        words, lines = prose_words(chapter), exported_lines(chapter)
        if words < WORDS_PER_LINE * lines:
            found.append(f"{chapter.path}: {words} words of prose for {lines} exported lines")
    return found


def prose_words(chapter):
    return sum(len(cell.source.split()) for cell in chapter.cells if cell.kind == "markdown")


def exported_lines(chapter):
    return sum(len(cell.lines) for cell in chapter.exported)


def find_mixed_imports(book):
    "Imports at the top level of an exported cell have the cell to themselves"
    found = []
    for chapter in book.chapters:
        for cell in chapter.exported:
            imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in cell.tree.body]
            if any(imports) and not all(imports):
                found.append(f"{chapter.at(cell)}: imports and other code in one exported cell")
    return found


def find_crowded_cells(book):
    "One public function or class per exported cell"
    found = []
    for chapter in book.chapters:
        for cell in chapter.exported:
            names = [node.name for node in cell.tree.body if isinstance(node, DEFINITIONS) and not node.name.startswith("_")]
            if len(names) > 1:
                found.append(f"{chapter.at(cell)}: {', '.join(names)} share a cell")
    return found


# ---------------------------------------------------------------- sizes and outputs

def find_long_cells(book):
    "No exported cell is longer than a screen"
    return [f"{c.at(cell)}: {len(cell.source.splitlines())} lines, at most {CELL_LINES}"
            for c in book.chapters for cell in c.exported if len(cell.source.splitlines()) > CELL_LINES]


def body_lines(function):
    "Lines of a function's body, its docstring left out"
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def find_long_functions(book):
    "No function body is longer than most of a screen"
    return [f"{c.at(cell, f.lineno)}: the body of {f.name} has {body_lines(f)} lines, at most {FUNCTION_LINES}"
            for c in book.chapters for cell in c.exported for f in functions(cell.tree) if body_lines(f) > FUNCTION_LINES]


def find_large_files(book):
    "Notebooks and the figures in them stay small"
    most = [(c, EXECUTED_BYTES if "/executed/" in c.path else NOTEBOOK_BYTES) for c in book.notebooks]
    found = [f"{c.path}: {c.size // 1000} kB, at most {n // 1000}" for c, n in most if c.size > n]
    for chapter in book.notebooks:
        for cell in chapter.cells:
            for output in cell.outputs:
                for kind, data in output.get("data", {}).items():
                    text = data if isinstance(data, str) else "".join(data)
                    size = len(base64.b64decode(text)) if kind in ("image/png", "image/jpeg") else len(text) if kind.startswith("image/") else 0
                    if size > FIGURE_BYTES:
                        found.append(f"{chapter.at(cell)}: a figure of {size // 1000} kB, at most {FIGURE_BYTES // 1000}")
    return found


def find_noisy_outputs(book):
    "What is stored shows results: no warnings, no tracebacks"
    found = []
    for chapter in book.notebooks:
        for cell in chapter.cells:
            for output in cell.outputs:
                if output.get("output_type") == "error" or output.get("name") == "stderr":
                    text = "".join(output.get("text", "")) or f"{output.get('ename')}: {output.get('evalue')}"
                    found.append(f"{chapter.at(cell)}: shows {text.strip()[:80]!r}")
    return found


def find_unexecuted(book):
    "An exporting chapter is stored with what it shows, and so is a tutorial"
    return [f"{c.path}: stored without any output; run `make execute NB={c.path}`" for c in book.chapters
            if (c.exported or is_tutorial(c.path)) and c.module != "__init__" and not any(cell.outputs for cell in c.cells)]


def find_invalid_notebooks(book):
    "Every notebook is valid in its format, line by line (for diffs), with ids that occur once, on the kernel `python3`"
    found = []
    for chapter in book.notebooks:
        nb = json.loads((book.root / chapter.path).read_text(encoding="utf-8"))
        twice = [f"{chapter.path}: {n} cells have the id {i}" for i, n in Counter(c.get("id") for c in nb["cells"]).items() if n > 1]
        found += twice
        try:
            if not twice:
                nbformat.validate(nb)
        except nbformat.ValidationError as error:
            found.append(f"{chapter.path}: {str(error).splitlines()[0]}")
        if any(isinstance(c["source"], str) and "\n" in c["source"] for c in nb["cells"]):
            found.append(f"{chapter.path}: a cell is stored as one long line; open and save it, or run `make execute NB={chapter.path}`")
        if nb["metadata"].get("kernelspec", {}).get("name") != "python3":
            found.append(f"{chapter.path}: its kernel is not named python3")
    return found


# ---------------------------------------------------------------- documentation

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def comment_lines(source):
    "Line numbers that carry a comment"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0] for t in tokens if t.type == tokenize.COMMENT and t.string.strip("# ")}


def decorators(node):
    "Names of decorators and bases, without their arguments"
    nodes = [*node.decorator_list, *getattr(node, "bases", [])]
    return {ast.unparse(n.func if isinstance(n, ast.Call) else n).split(".")[-1] for n in nodes}


def parameters(function, method):
    "The parameters a caller gives, each with its lines; `self` and `cls` left out"
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    defaults = dict(zip(reversed(plain), reversed(a.defaults))) | {k: d for k, d in zip(a.kwonlyargs, a.kw_defaults) if d}
    if method and "staticmethod" not in decorators(function):
        plain = plain[1:]
    for arg in [*plain, a.vararg, *a.kwonlyargs, a.kwarg]:
        if arg is not None:
            last = max(n.end_lineno for n in (arg, defaults.get(arg), arg.annotation) if n is not None)
            yield arg, range(arg.lineno, last + 1), arg in (a.vararg, a.kwarg)


def undocumented_parameters(function, comments, method=False):
    "What is missing at a function's parameters"
    given = list(parameters(function, method))
    lines = Counter(line for _, span, _ in given for line in span)
    for arg, span, many in given:
        if arg.annotation is None and not many:
            yield f"{arg.arg} has no type"
        if not any(line in comments for line in span):
            yield f"{arg.arg} has no comment"
        elif any(lines[line] > 1 for line in span):
            yield f"{arg.arg} shares a line with another parameter"


def undocumented_function(function, comments, method=False):
    if ast.get_docstring(function) is None:
        yield "no docstring"
    if function.returns is None:
        yield "no return type"
    yield from undocumented_parameters(function, comments, method)


HOOK = re.compile(r"on_\w+|setup|teardown")  # Lightning calls these and fixes their parameters; users never do


def undocumented_class(node, comments):
    if ast.get_docstring(node) is None:
        yield "no docstring"
    if decorators(node) & {"dataclass", "NamedTuple", "TypedDict"}:
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and not any(n in comments for n in range(field.lineno, field.end_lineno + 1)):
                yield f"field {ast.unparse(field.target)} has no comment"
    for method in node.body:
        if not isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.bases and HOOK.fullmatch(method.name):
            if ast.get_docstring(method) is None:
                yield f"{method.name}: no docstring"
        elif method.name == "__init__":
            yield from (f"__init__: {problem}" for problem in undocumented_parameters(method, comments, True))
        elif not method.name.startswith("_"):
            yield from (f"{method.name}: {problem}" for problem in undocumented_function(method, comments, True))


def find_undocumented(book):
    "Every public name has a docstring; its parameters have a type and a comment each, on a line of their own"
    found = []
    for chapter in book.chapters:
        for cell in chapter.exported:
            comments = comment_lines(cell.source)
            for node in cell.tree.body:
                if not isinstance(node, DEFINITIONS) or node.name.startswith("_"):
                    continue
                check = undocumented_class if isinstance(node, ast.ClassDef) else undocumented_function
                found += [f"{chapter.at(cell)}: {node.name}: {problem}" for problem in check(node, comments)]
    return found


OTHER_WORDS = {
    "random_state": "seed", "random_seed": "seed", "rng": "seed", "bs": "batch_size", "batchsize": "batch_size", "verbose": "progress",
    "target_idx": "target", "target_index": "target", "layer_name": "layer", "vocab": "alphabet", "force": "overwrite", "inplace": "a new object", "copy": "a new object",
}


def find_odd_names(book):
    "One word for one thing"
    return [f"{c.at(cell, a.lineno)}: the parameter {a.arg} of {f.name}; the word here is {OTHER_WORDS[a.arg]}"
            for c in book.chapters for cell in c.exported for f in functions(cell.tree)
            for a, _, _ in parameters(f, False) if a.arg in OTHER_WORDS]


def find_unused_parameters(book):
    "No parameter that does nothing (methods that answer to a base class may have one)"
    found = []
    for chapter in book.chapters:
        for cell in chapter.exported:
            answering = {id(m) for k in ast.walk(cell.tree) if isinstance(k, ast.ClassDef) and k.bases for m in k.body}
            for function in functions(cell.tree):
                if id(function) in answering and function.name != "__init__":
                    continue
                used = {n.id for statement in function.body for n in ast.walk(statement) if isinstance(n, ast.Name)}
                for arg, _, _ in parameters(function, False):
                    if arg.arg not in used and not arg.arg.startswith("_") and arg.arg not in ("self", "cls"):
                        found.append(f"{chapter.at(cell, arg.lineno)}: {function.name} does nothing with {arg.arg}")
    return found


# ---------------------------------------------------------------- libraries and forbidden code

INSIDE = {"captum", "logomaker", "pyBigWig", "pysam", "matplotlib", "seaborn", "memelite", "modiscolite", "ray", "kipoi", "bioframe", "seqpro", "tangermeme", "papermill", "IPython"}
ABSENT = {"etl": {"torch", "pytorch_lightning", "captum", "torchmetrics"}, "layers": {"xarray", "pandas"}, "models": {"xarray", "pandas"}}
TORCH_OF_ETL = "etl.loading"


def imports_of(tree):
    "`(package, line, at top level)` of every import"
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            yield name.split(".")[0], node.lineno, id(node) in top


def subclasses(chapter, package):
    "Whether a class of the chapter derives from something of a package"
    names = {package}
    for cell in chapter.exported:
        for node in ast.walk(cell.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and (getattr(node, "module", None) or node.names[0].name).split(".")[0] == package:
                names |= {a.asname or a.name for a in node.names}
    bases = {ast.unparse(b).split(".")[0] for cell in chapter.exported for k in ast.walk(cell.tree) if isinstance(k, ast.ClassDef) for b in k.bases}
    return bool(names & bases)


def find_misplaced_libraries(book):
    "torch enters ETL with the loader; layers and models see no tables; heavy packages are imported where they are used"
    found = []
    for chapter in book.chapters:
        absent = ABSENT.get((chapter.module or "").split(".")[0], set()) if chapter.module != TORCH_OF_ETL else set()
        inside = INSIDE if subclasses(chapter, "pytorch_lightning") else INSIDE | {"pytorch_lightning"}
        for cell in chapter.exported:
            for package, line, top in imports_of(cell.tree):
                if package in absent:
                    found.append(f"{chapter.at(cell, line)}: {package} does not belong in {chapter.module}")
                if top and package in inside:
                    found.append(f"{chapter.at(cell, line)}: import {package} inside the function that uses it")
    return found


FRESH_RANDOM = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64"}


def forbidden(node):
    "Why a piece of syntax has no place in exported code, or None"
    text = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print": return "prints; a library is quiet"
    if isinstance(node, ast.Assert): return "asserts; raise a ValueError that says what to do"
    if isinstance(node, ast.ExceptHandler) and node.type is None: return "a bare except hides everything"
    if isinstance(node, ast.Global): return "global state"
    if isinstance(node, ast.Name) and node.id == "NotImplementedError": return "NotImplementedError: what is not written is not exported"
    if isinstance(node, ast.Name) and node.id == "patch": return "@patch needs fastcore at run time"
    if re.fullmatch(r"(np|numpy)\.random\.\w+", text) and text.split(".")[-1] not in FRESH_RANDOM: return f"{text} draws from the global generator; use rng(seed)"
    if text in ("plt.rcParams", "matplotlib.rcParams", "plt.show", "plt.savefig"): return f"{text}: the caller decides"
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        module = getattr(node, "module", None) or node.names[0].name
        if any(a.name == "*" for a in node.names): return "import *: name what is needed"
        if module.split(".")[0] in ("fastcore", "nbdev"): return f"{module} is for tests, not for users"
    if isinstance(node, ast.arguments) and any(isinstance(d, (ast.List, ast.Dict, ast.Set)) for d in [*node.defaults, *node.kw_defaults]):
        return "a default that can change; use None or a tuple"
    return None


def find_forbidden_code(book):
    "Exported code is quiet, explicit and finished"
    found = []
    for chapter in book.chapters:
        for cell in chapter.exported:
            found += [f"{chapter.at(cell, getattr(n, 'lineno', None))}: {why}" for n in ast.walk(cell.tree) if (why := forbidden(n))]
            if mark := re.search(r"\b(TODO|FIXME|XXX)\b", cell.source):
                found.append(f"{chapter.at(cell)}: {mark[0]}")
    return found


# ---------------------------------------------------------------- words

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|mnt|tmp|Users)/\w[\w/.-]*")
BANNED = re.compile("|".join([
    r"\bpypi\.", r"\bpythonhosted\.", r"\banaconda\.", r"\bnpmjs\.",
    r"\b(?:this|our|earlier|later|another) session\b", r"\bhelper sessions?\b", r"\bsub-?agents?\b", r"\bchat ?gpt\b", r"\bclaude\b",
    r"\bissues? (?:no\. ?|number )?#?\d", r"(?<!\w)shared/(?!data)\w", r"\b(?:DESIGN|STYLE|INVENTORY|ENVIRONMENT|ARCHITECTURES|BASELINES|SPEC)(?:\.md| \d)",
]), re.IGNORECASE)


def find_machine_paths(book):
    "No path of one machine, in sources or outputs"
    return [f"{p.relative_to(book.root).as_posix()}: {m[0]}" for p in text_files(book.root) for m in MACHINE_PATH.finditer(readable(p))]


def find_banned_words(book):
    "The text speaks of the biology and the code, not of how it came to be"
    return [f"{p.relative_to(book.root).as_posix()}: {m[0]!r}" for p in text_files(book.root) for m in BANNED.finditer(readable(p))]


RULES = [rule for name, rule in list(globals().items()) if name.startswith("find_")]


def sizes(book):
    "The chapters' sizes, for the eye"
    for c in book.chapters:
        shown = sum(1 for cell in c.cells if cell.kind == "code" and not cell.exported and not {"hide"} & set(cell.directives) and not cell.directives[:1] == [f"default_exp {c.module}"])
        longest = max((len(cell.source.splitlines()) for cell in c.exported), default=0)
        yield f"{c.path:45} cells {len(c.cells):3}  exported lines {exported_lines(c):4} in {len(c.exported):3}  longest {longest:3}  words {prose_words(c):5}  shown {shown:3}  {c.size // 1000:4} kB"


if __name__ == "__main__":
    the_book = load_book(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]))
    findings = [f"{rule.__name__}: {line}" for rule in RULES for line in rule(the_book)]
    print("\n".join([*sizes(the_book), "", *findings, "", f"{len(findings)} findings"]))
    sys.exit(bool(findings))
