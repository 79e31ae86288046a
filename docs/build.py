"""Build the site of the book: `python docs/build.py [--out _docs]`.

The pages are made of the notebooks as they are stored (nothing is run), of the texts beside them and of the cards of the library.
"""
import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

import pages
from book import PARTS, page_of, read_book, read_use_cases

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TEXTS = {"use_cases/README.md": "use_cases/index", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing", "tests/benchmarks/results.md": "benchmarks",
         "tests/benchmarks/README.md": "benchmarks_method"}
NO_BENCHMARKS = "# Benchmarks\n\nNo results are stored beside this book yet: `tests/benchmarks/results.md` is not there. `make bench` measures and writes it.\n"


def toctree(rows, caption=""):
    "A table of contents for the sidebar; a row is a page, or a title and a page"
    lines = [r if isinstance(r, str) else f"{r[0]} <{r[1]}>" for r in rows]
    return "\n".join(["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *lines, "```"])


def contents(book, tutorials, cases):
    "The sidebar: page to the tables of contents it carries"
    parts = {part: [c for c in book if c.page.startswith(f"{part}/") and not c.page.endswith("/index")] for part in PARTS}
    found = {f"{part}/index": toctree([(f"{c.number} {c.title}", c.page.rpartition("/")[2]) for c in chapters]) for part, chapters in parts.items()}
    found["index"] = "\n\n".join([toctree(["core", *(f"{part}/index" for part in PARTS), "face"], "The book"),
                                  *([toctree([(c.title, c.page) for c in tutorials], "Tutorials")] if tutorials else []), toctree([("Overview", "use_cases/index"), *((c.title.partition(":")[0], c.page) for c in cases)], "Use cases"),
                                  toctree(["reference/index", "reference/architectures", "reference/datasets"], "Reference"), toctree(["benchmarks", ("How it is measured", "benchmarks_method"), "contributing", "changelog"], "Project")])
    return found


def make_pages(eu):
    "Path of a source file to its content"
    chapters = read_book(ROOT, eu._HOME)
    tutorials = [c for c in chapters if c.page.startswith("tutorials/")]
    book = [c for c in chapters if c not in tutorials]
    cases = read_use_cases(ROOT)
    known = {c.path: c.page for c in (*chapters, *cases)} | {path: page for path, page in TEXTS.items() if (ROOT / path).exists()}
    known |= {f"use_cases/{Path(c.path).name}": c.page for c in cases} | {"README.md": "index"}
    site, trees = pages.Site(ROOT, chapters, known), contents(book, tutorials, cases)
    made = {f"{c.page}.ipynb": pages.notebook(c, site, trees.get(c.page, "")) for c in (*chapters, *cases)}
    made["benchmarks.md"] = NO_BENCHMARKS
    for path, page in TEXTS.items():
        if (ROOT / path).exists():
            made[f"{page}.md"] = site.link_names((ROOT / path).read_text(encoding="utf-8"), page) + "\n" + trees.get(page, "")
    picture = "tests/benchmarks/results.png"
    if (ROOT / picture).exists() and "tests/benchmarks/results.md" in known and "results.png" not in made["benchmarks.md"]:
        made["benchmarks.md"] += f"\n![The same numbers as a figure]({site.way('results.png', 'benchmarks')})\n"
    modules = {name: (page_of_module(module, site), getattr(eu, name).__name__) for name, module in eu._MODULES.items()}
    made["reference/index.md"] = pages.all_names(site, {n: (page, f"`{full}`") for n, (page, full) in modules.items()})
    for part in ("core", *PARTS):
        made[f"reference/{part}.md"] = pages.part_reference(part, [c for c in book if c.module.split(".")[0] == part], site)
    cards = {"architectures": pages.architectures(site, eu), "datasets": pages.datasets(site, eu.datasets)}
    made |= {f"reference/{name}.md": text for name, text in cards.items()}
    return made | {place: file.read_bytes() for place, file in site.files.items()}


def page_of_module(module, site):
    "The page of a chapter or of a part"
    return site.chapter[module].page if module in site.chapter else f"{module}/index"


def write_pages(made, folder):
    "Write what has changed, remove what is no longer made; sphinx reads again only what is new"
    files = {name: text if isinstance(text, bytes) else text.encode() for name, text in made.items()}
    for old in [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() not in files]:
        old.unlink()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "_docs", help="folder of the site")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "docs", help="folder of pages in between")
    parser.add_argument("--jobs", default="2", help="processes")
    args = parser.parse_args()
    args.out, args.cache = args.out.resolve(), args.cache.resolve()
    sys.path.insert(0, str(ROOT))
    import eugene as eu
    try:
        write_pages(make_pages(eu), args.cache / "pages")
    except pages.DeadLink as e:
        sys.exit(f"No site was made. {e}")
    site = args.cache / "site"
    failed = build_main(["-W", "--keep-going", "-q", "-j", args.jobs, "-b", "html", "-c", str(HERE), "-d", str(args.cache / "trees"), str(args.cache / "pages"), str(site)])
    if not failed:
        shutil.rmtree(args.out, ignore_errors=True)
        shutil.copytree(site, args.out, ignore=shutil.ignore_patterns(".buildinfo*", "_sources"))
        print(f"{args.out / 'index.html'}: {sum(1 for _ in args.out.rglob('*.html'))} pages")
    sys.exit(failed)


if __name__ == "__main__":
    main()
