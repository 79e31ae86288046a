"""Turn what `book.py` has read into the pages that sphinx renders: notebooks with links and anchors, reference, cards, lists."""
import json
import os
import re

from book import PARTS, directives, exports

# What must stay as it is in a text, and the two things that are changed: links and code in backticks
PIECES = re.compile(r"(?P<fence>^(?P<tick>```+).*?^(?P=tick)[ ]*$)|(?P<heading>^#+ [^\n]*$)|(?P<math>\$\$.*?\$\$|\$[^$\n]+\$)|(?P<link>!?\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\))"
                    r"|(?P<code>(?<!`)`(?P<words>[^`\n]+)`(?!`))", re.DOTALL | re.MULTILINE)
CALL = re.compile(r"(?:(?P<module>(?:eu|eugene)(?:\.\w+)*)\.)?(?P<name>[A-Za-z]\w*)(?P<call>\(.*\))?")


class DeadLink(Exception):
    "A text links to what is not on the site"


class Site:
    "What every page may point to"

    def __init__(self, root, chapters, pages):
        self.root, self.chapters, self.pages = root, chapters, pages # pages: path in the repository to page
        self.files = {} # place on the site to file, those that pages link to
        self.names = [n for c in chapters for n in c.names]
        self.face = {n.name: n for n in self.names if n.public}
        self.full = {f"{n.module}.{n.name}": n for n in self.names}
        self.chapter = {c.module: c for c in chapters if c.module}

    def find(self, words, page):
        "The name that code in backticks speaks of, or None"
        m = CALL.fullmatch(words)
        if not m or len(m["call"] or "") > 40:
            return None
        module = (m["module"] or "").partition(".")[2]
        if module:
            return self.full.get(f"{module}.{m['name']}") or next((n for n in self.names if n.name == m["name"] and n.module.endswith(f".{module}")), None)
        if m["module"]:
            return self.face.get(m["name"])
        here = next((c for c in self.chapters if c.page == page), None)
        own = {n.name: n for n in here.names} if here else {}
        if not m["call"] and m["name"] in words_of_others(here):
            return None # a parameter or a column, not the function
        return own.get(m["name"]) or imported(here, self).get(m["name"]) or self.face.get(m["name"])

    def link_names(self, text, page):
        "A text whose links lead to pages and whose public names lead to the cells that define them"
        def one(m):
            if m["link"]:
                target, _, anchor = m["target"].partition("#")
                return m[0] if "://" in target or not target else f"{'!' * m[0].startswith('!')}[{m['text']}]({self.way(target, page)}{'#' + anchor if anchor else ''})"
            if not m["code"]:
                return m[0]
            found = self.find(m["words"], page)
            if found:
                return f"[{m[0]}](#{found.label})"
            return f"[{m[0]}]({relative(self.pages[m['words']], page)})" if m["words"] in self.pages else m[0]
        return PIECES.sub(one, text)

    def way(self, target, page):
        "A link that is written from one notebook or text to another, as it is on the site"
        source = next((path for path, p in self.pages.items() if p == page), "README.md")
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if page == "index":
            path = os.path.normpath(target) # the map of the book becomes README.md, and its links are written for that
        if path in self.pages:
            return relative(self.pages[path], page)
        if (self.root / path).is_file():
            self.files[f"files/{path}"] = self.root / path # a file that is no page comes along as it is
            return os.path.relpath(f"files/{path}", os.path.dirname(page) or ".")
        raise DeadLink(f"{source} links to {target}, for which the site has no page.")


def relative(page, here):
    "From page to page, as files of the source"
    written = page.startswith("reference/") or page in ("benchmarks", "benchmarks_method", "changelog", "contributing", "use_cases/index")
    return os.path.relpath(page, os.path.dirname(here) or ".") + (".md" if written else ".ipynb")


def words_of_others(chapter):
    "Parameters of a chapter's functions: in backticks they mean themselves"
    if chapter is None:
        return set()
    made = [*chapter.names, *(m for n in chapter.names for m in n.methods)]
    return {p.name for n in made for p in n.params} - {n.name for n in chapter.names}


def imported(chapter, site):
    "What a notebook imports from other chapters, by name"
    if chapter is None:
        return {}
    found = {}
    for cell in chapter.cells:
        if cell["cell_type"] == "code":
            for module, names in re.findall(r"^from eugene\.([\w.]+) import \(?([^()#]+?)\)?$", cell["source"], re.MULTILINE):
                found |= {name.strip(): site.full.get(f"{module}.{name.strip()}") for name in names.split(",")}
    return {name: n for name, n in found.items() if n}


# ---------------------------------------------------------------- notebooks

def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def opening(chapter, text, site):
    "The first cell: title, summary as a lead, and where the chapter stands"
    title, _, rest = text.partition("\n")
    rest = rest.strip()
    if chapter.summary:
        rest = rest.removeprefix(f"> {chapter.summary}").strip()
    where = [f"Chapter {chapter.number}" if chapter.number else "", f"`eugene.{chapter.module}`" if chapter.module and chapter.module != "__init__" else "", f"{chapter.path}" if chapter.page != "index" else ""]
    parts = [title, f"{{.lead}}\n{site.link_names(chapter.summary, chapter.page)}" if chapter.summary else "", "{.where}\n" + " · ".join(w for w in where if w) if any(where) else "", site.link_names(rest, chapter.page)]
    return "\n\n".join(p for p in parts if p)


def link_chapters(text, chapters, page):
    "The names of chapters in the opening of a part, as links"
    known = {word.casefold(): c.page for c in chapters for word in (c.title, c.path.rpartition("/")[2][3:-6].replace("_", " "))}
    def one(m):
        target = known.get(m["name"].casefold())
        return f"{m['before']}[{m['name']}]({relative(target, page)}){m['after']}" if target else m[0]
    text = re.sub(r"(?P<before>\*\*)(?P<name>[\w -]+)(?P<after>\*\*)", one, text)
    return re.sub(r"(?P<before>^\| )(?P<name>[\w -]+)(?P<after> \|)", one, text, flags=re.MULTILINE)


def notebook(chapter, site, contents=""):
    "A notebook as its page shows it"
    cells, section = [], chapter.title
    part = [c for c in site.chapters if c.page != chapter.page and os.path.dirname(c.page) == os.path.dirname(chapter.page)] if chapter.page.endswith("/index") else []
    for n, cell in enumerate(chapter.cells):
        source = cell["source"]
        if cell["cell_type"] == "markdown":
            section = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [section])[-1]
            text = opening(chapter, source, site) if n == 0 else site.link_names(source, chapter.page)
            cells.append(markdown(link_chapters(text, part, chapter.page) if part else text))
        elif cell["cell_type"] == "code":
            cells += code(cell, chapter, section)
    if contents:
        cells.append(markdown(contents))
    for n, cell in enumerate(cells):
        cell["id"] = f"cell-{n}"
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return json.dumps({"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python", "pygments_lexer": "python"}}, "nbformat": 4, "nbformat_minor": 5}, ensure_ascii=False)


def code(cell, chapter, section):
    "A code cell without its directives, after the anchors of what it defines; nothing for a hidden one"
    if "hide" in directives(cell["source"]):
        return []
    source = "\n".join(line for line in cell["source"].splitlines() if not line.startswith("#|")).strip("\n")
    outputs = [o for o in cell["outputs"] if not (o["output_type"] == "stream" and o["name"] == "stderr")]
    if not source and not outputs:
        return []
    made = [n for n in chapter.names if n.cell == cell["id"]] if chapter.module else []
    tags = ["exported"] if exports(cell["source"]) else ["test"] if is_test(source, outputs) else []
    shown = {"cell_type": "code", "execution_count": None, "outputs": outputs, "source": source,
             "metadata": {"tags": tags, "mystnb": {"image": {"alt": f"Figure of the section {section}".replace("`", "")}}}}
    anchors = ["```{defines}\n" + "\n".join(f"{n.module}.{n.name} {n.spoken} {reference_of(n)}" for n in made) + "\n```"] if made else []
    return [*map(markdown, anchors), shown]


def is_test(source, outputs):
    "Whether a cell only asserts"
    first = [line for line in source.splitlines() if line.strip() and not line.startswith((" ", "#"))]
    return not outputs and bool(first) and sum(bool(re.search(r"\bassert\b|\btest_\w+\(|expect_fail|testing\.", line)) for line in first) * 2 >= len(first)


# ---------------------------------------------------------------- reference

def plain(text):
    "Text for markdown: what is not in backticks is kept from meaning anything"
    return "".join(p if n % 2 else re.sub(r"([\\*_<>\[\]{}$|#~^])", r"\\\1", p) for n, p in enumerate(re.split(r"(`[^`]+`)", text)))


def reference_of(name):
    "Page and anchor of a name in the reference"
    return f"reference/{name.module.split('.')[0]}#{object_of(name)}"


def object_of(name):
    "Full name in the reference"
    return f"eugene.{name.name}" if name.public else f"eugene.{name.module}.{name.name}"


def typed(text, n, site):
    "A type in which the classes of the book have their full names, so that they become links"
    here = site.chapter[n.module]
    known = imported(here, site) | {m.name: m for m in here.names}
    full = lambda m: f"~{object_of(known[m[0]])}" if m[0] in known and known[m[0]].kind == "class" else m[0]
    return plain(re.sub(r"(?<![.\w])[A-Z]\w*", full, text)).replace("\\~", "~")


def entry(n, site, page, inside=False):
    "A name with its signature and what its comments say"
    kind = {"data": "data", "function": "function", "class": "class", "method": "method", "property": "property"}[n.kind]
    given = ", ".join(p.name + (f"={p.default}" if p.default else "") for p in n.params)
    lines = [f"{'```' if inside else '````'}{{py:{kind}}} {n.name}{'' if n.kind in ('data', 'property') else f'({given})'}"]
    lines += [":module: " + object_of(n).rpartition(".")[0]] if not inside else []
    said = site.link_names(plain(n.doc), page)
    where = "" if inside else "{.where}\n" + (f"`{n.spoken}` · `eugene.{n.module}` · " if n.public else f"`from eugene.{n.module} import {n.name}` · ") + f"[{site.chapter[n.module].title}](#{n.label})"
    lines += ["", *([said, ""] if said else []), *([where, ""] if where else [])]
    for p in n.params:
        lines.append(f":param {p.name.replace('*', chr(92) + '*')}: {site.link_names(plain(p.text), page)}" + (f" (default `{p.default}`)" if p.default else ""))
        if p.type:
            lines.append(f":type {p.name.replace('*', chr(92) + '*')}: {typed(p.type, n, site)}")
    if any(n.returns) and n.kind != "property":
        lines.append(":returns: " + " – ".join(t for t in (f"*{plain(n.returns[0])}*" if n.returns[0] else "", site.link_names(plain(n.returns[1]), page)) if t))
    lines.append("")
    for m in n.methods:
        lines += [entry(m, site, page, inside=True), ""]
    return "\n".join([*lines, "```" if inside else "````"])


def part_reference(part, chapters, site):
    "All names of a part, chapter by chapter"
    page = f"reference/{part}"
    title = PARTS.get(part, "Core").partition(": ")[2] or "Core"
    out = [f"# {title}", f"What the chapters of {f'[{PARTS[part]}](../{part}/index.ipynb)' if part in PARTS else '[Core](../core.ipynb)'} define, in their order. Names with `eu.` are offered by `import eugene as eu`; the others are imported from their chapter."]
    for c in chapters:
        if c.names:
            out += [f"## {c.title}", f"{{.where}}\n{c.summary}"] if len(chapters) > 1 else []
            out += [entry(n, site, page) for n in c.names]
    return "\n\n".join(out) + "\n"


def all_names(site, modules):
    "Every name of the face, from A to Z, with a line each"
    rows = "\n".join(f"| [`{n.name}`](#{object_of(n)}) | {site.link_names(plain(n.doc), 'reference/index')} | [{site.chapter[n.module].title}](#{n.label}) |" for n in sorted(site.face.values(), key=lambda n: (n.name.casefold(), n.name)))
    parts = "\n".join(f"| [`{name}`]({relative(page, 'reference/index')}) | {text} |" for name, (page, text) in sorted(modules.items()))
    return f"""# API

{{.lead}}
The {len(site.face)} names that `import eugene as eu` offers, from A to Z

A name leads to its signature, its chapter to the cell that defines it. The pages of the parts list everything in the order of the work, also what chapters define for each other.

```{{table}}
:class: names

| name | what it does | chapter |
|---|---|---|
{rows}
```

## Parts and modules

```{{table}}
:class: names

| name | what it holds |
|---|---|
{parts}
```

```{{toctree}}
:hidden:

core
{chr(10).join(PARTS)}
```
"""


# ---------------------------------------------------------------- cards

def listing(rows):
    "Names and texts as a list of terms"
    return "\n".join(f":{term}: {text}" for term, text in rows if text)


def architectures(site, eu):
    "The card of every architecture"
    page, out, table = "reference/architectures", [], []
    for name, variants in eu.list_archs().items():
        out.append(f"({name.lower()}-card)=\n## {name}")
        for variant in variants:
            c = eu.arch_card(name, variant)
            table.append(f"| [{name}](#{name.lower()}-card) | {variant} | {c.input_len:,} | {c.n_params:,} | {plain(c.outputs)} |")
            code = site.find(f"eu.{name}", page)
            head = [("Paper", plain(c.citation)), ("Layers read from", plain(c.source)), ("Confidence", plain(c.confidence)), ("Input", f"{c.input_len:,} bp"), ("Output", plain(c.outputs)), ("Parameters", f"{c.n_params:,}"),
                    ("Training", plain(", ".join(f"{k} {v}" for k, v in c.training.items()))), ("Build", f"`eu.build_arch({name!r}{'' if variant == 'published' else f', {variant!r}'})`"), ("Code", f"[`{code.name}`](#{code.label})" if code else "")]
            out += [f"### {name}, {variant}" if len(variants) > 1 else "", listing(head), "```{table}\n:class: layers\n\n| layer | shape after it |\n|---|---|\n" + "\n".join(f"| {plain(a)} | {plain(b)} |" for a, b in c.table) + "\n```"]
            out += ["Where this build differs from its source:\n\n" + "\n".join(f"- {plain(d)}" for d in c.deviations)] if c.deviations else []
    intro = f"{len(table)} builds of {len(eu.list_archs())} architectures. `published` is the network of its authors; `eugene-2023` is what the package of Klie et al. (2023) built, where a published number depends on it."
    return "\n\n".join(["# Architectures", "{.lead}\nThe card of every network that can be built by name: source, layers, parameters, training, deviations", site.link_names(intro, page) + " [Zoo](../models/zoo.ipynb) is their chapter.",
                        "```{table}\n:class: wide\n\n| name | variant | input (bp) | parameters | output |\n|---|---|--:|--:|---|\n" + "\n".join(table) + "\n```", *(o for o in out if o)]) + "\n"


def datasets(site, data):
    "The card of every data set"
    page, out, table, study = "reference/datasets", [], [], ""
    rows = {(r["name"], r["scale"]): r for r in data.available().to_dict("records")}
    whole = lambda v: f"{v:,}" if v == v and v is not None and not isinstance(v, type(rows)) and str(v) != "<NA>" else "–"
    for c in data.CARDS.values():
        slug = re.sub(r"\W+", "-", c.name).lower() + "-data"
        if c.name.split("/")[0] != study:
            study = c.name.split("/")[0]
            out.append(f"## {study}")
        out.append(f"({slug})=\n### {c.name}" if "/" in c.name else f"({slug})=")
        for scale in c.files:
            row = rows[c.name, scale]
            table.append(f"| [{c.name}](#{slug}) | {scale} | {whole(row['rows'])} | {plain(c.length)} | {whole(row['bytes'])} | {plain(c.what)} |")
        head = [("What", plain(c.what)), ("Unit", plain(c.unit)), ("Targets", plain(", ".join(c.targets))), ("Length", plain(f"{c.length} bp") if c.length else ""), ("Columns", plain(c.columns)), ("Beware", plain(c.caveats)),
                ("Paper", plain(c.citation)), ("Source", plain(c.source) if "://" not in c.source else f"<{c.source}>"), ("Licence", plain(c.licence)), ("Load", f"`eu.datasets.{c.call}`" if not c.call.startswith("eugene") else f"`{c.call}`")]
        out.append(listing(head))
        files = [(scale, data.FILES[p]) for scale, places in c.files.items() for p in places]
        if files:
            out.append("```{table}\n:class: wide\n\n| scale | file | rows | bytes | SHA-256 |\n|---|---|--:|--:|---|\n" + "\n".join(f"| {s} | `{f.path}` | {whole(f.rows or None)} | {whole(f.size or None)} | {f'`{f.sha256[:16]}…`' if f.sha256 else 'at the first download'} |" for s, f in files) + "\n```")
    return "\n\n".join(["# Data sets", "{.lead}\nThe card of every data set that can be loaded by name: what was measured, by whom, in which files, under which terms",
                        "`sample` is read from the folder that `EUGENE_DATA` names, `full` is fetched from the public address and checked. [Datasets](../etl/datasets.ipynb) is their chapter.",
                        "```{table}\n:class: wide\n\n| name | scale | rows | length (bp) | bytes | what |\n|---|---|--:|---|--:|---|\n" + "\n".join(table) + "\n```", *out]) + "\n"
