"""Read the book for its site: the notebooks in order, and what each of them exports with signature, documentation and place."""
import ast
import io
import json
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

PARTS = {"etl": "Part 1: ETL", "layers": "Part 2: Layers", "models": "Part 3: Models", "training": "Part 4: Training", "interpretation": "Part 5: Interpretation"}
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


class Param(NamedTuple):
    "A parameter of a function, or a field of a class"
    name: str
    type: str
    default: str   # empty: it must be given
    text: str


class Name(NamedTuple):
    "Something a chapter exports"
    name: str
    module: str    # without `eugene.`
    kind: str      # function, class or data
    doc: str
    params: list
    returns: tuple # type and text
    methods: list  # of a class, each a `Name`
    cell: str      # id of the cell that defines it
    public: bool   # offered by `import eugene`

    @property
    def label(self):
        return f"def:{self.module}.{self.name}"

    @property
    def spoken(self):
        "As a user writes it"
        return f"eu.{self.name}" if self.public else self.name


class Chapter(NamedTuple):
    "A notebook and its page"
    path: str      # from the root of the repository
    page: str      # of the site, without suffix
    title: str
    summary: str
    module: str    # without `eugene.`; empty: exports nothing
    number: str    # 5.18; empty: has none
    cells: list
    names: list


def directives(source):
    "The words after `#|`"
    return [line[2:].strip() for line in source.splitlines() if line.startswith("#|")]


def exports(source):
    return any(re.match(r"exports?\b", d) for d in directives(source))


def comments(source):
    "Line number to the comment that ends the line"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


def params(function, source):
    "Parameters of a function with what their comments say"
    a, said = function.args, comments(source)
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    rows = [("", arg, d) for arg, d in zip(plain, defaults)] + [("*", a.vararg, None)] * bool(a.vararg)
    rows += [("", arg, d) for arg, d in zip(a.kwonlyargs, a.kw_defaults)] + [("**", a.kwarg, None)] * bool(a.kwarg)
    found = []
    for star, arg, default in rows:
        if arg.arg in ("self", "cls"):
            continue
        lines = range(arg.lineno, (default.end_lineno if default is not None and default.lineno >= arg.lineno else arg.end_lineno) + 1)
        text = next((said[n] for n in lines if n in said), "")
        found.append(Param(star + arg.arg, text_of(arg.annotation), text_of(default), text))
    back = function.returns
    return found, (text_of(back), said.get(back.end_lineno, "")) if back is not None else ("", "")


def text_of(node):
    return "" if node is None else ast.unparse(node)


def fields(node, source):
    "Annotated fields of a named tuple or data class"
    said = comments(source)
    rows = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return [Param(n.target.id, text_of(n.annotation), text_of(n.value), next((said[i] for i in range(n.lineno, n.end_lineno + 1) if i in said), "")) for n in rows]


def first_line(node):
    return (ast.get_docstring(node) or "").strip().split("\n")[0]


def define(node, source, module, cell, public):
    "What a definition exports"
    made = dict(name=node.name, module=module, doc=first_line(node), methods=[], cell=cell, public=public)
    if isinstance(node, ast.FunctionDef):
        given, back = params(node, source)
        return Name(kind="function", params=given, returns=back, **made)
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    start = next((n for n in methods if n.name == "__init__"), None)
    given = params(start, source)[0] if start else fields(node, source)
    made["methods"] = [define(m, source, module, cell, False)._replace(kind="property" if any(text_of(d).endswith("property") for d in m.decorator_list) else "method")
                       for m in methods if not m.name.startswith("_") and m.name != "forward"]
    return Name(kind="class", params=given, returns=("", ""), **made)


def defined(source, module, cell, face):
    "Every public name that an exported cell defines"
    for node in ast.parse(source).body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            yield define(node, source, module, cell, face.get(node.name) == module)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            said = comments(source)
            text = next((said[n] for n in range(node.lineno, node.end_lineno + 1) if n in said), "")
            for name in (t.id for t in targets if isinstance(t, ast.Name) and not t.id.startswith("_")):
                yield Name(name, module, "data", text, [], ("", ""), [], cell, face.get(name) == module)


def page_of(path):
    "The page of a notebook: its path without numbers"
    pieces = [re.sub(r"^\d\d_", "", p) for p in Path(path).with_suffix("").parts]
    pieces = pieces[1:] if pieces[0] == "nbs" else [p for p in pieces if p != "executed"]
    return "/".join("index" if p == "part" else p for p in pieces)


def number_of(path):
    "5.18 for `05_interpretation/18_experiments.ipynb`"
    numbers = [int(n) for n in re.findall(r"(?:^|/)(\d\d)_", path)]
    return f"{numbers[0]}.{numbers[1]}" if len(numbers) == 2 and numbers[1] else ""


def read_chapter(path, root, face):
    "A notebook with what it exports"
    place = path.relative_to(root).as_posix()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    opening = re.match(r"# (.*?)\s*(?:\n+> (.*)|\n|$)", cells[0]["source"])
    module = next((d.split()[1] for c in cells for d in directives(c["source"]) if d.startswith("default_exp ")), "")
    names = [] if module == "__init__" else [n for c in cells if c["cell_type"] == "code" and exports(c["source"]) for n in defined(c["source"], module, c["id"], face)]
    return Chapter(place, page_of(place), opening[1], opening[2] or "", module, number_of(place), cells, names)


def read_book(root, face):
    "Every notebook of the book in order; `face` maps a public name to its module"
    paths = [p for p in sorted((root / "nbs").rglob("*.ipynb")) if not any(piece.startswith((".", "_")) for piece in p.relative_to(root).parts)]
    return [read_chapter(p, root, face) for p in paths]


def read_use_cases(root):
    "The use cases, as they were executed where that is stored"
    found = {}
    for path in [*sorted((root / "use_cases").glob("*.ipynb")), *sorted((root / "use_cases" / "executed").glob("*.ipynb"))]:
        found[path.name] = read_chapter(path, root, {})
    return [found[name] for name in sorted(found)]
