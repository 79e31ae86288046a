"""README.md is what the book's index gives, its map is the book, its links lead somewhere, and its example runs."""
import re
import subprocess
import sys
from pathlib import Path

from book_rules import is_tutorial, load_book
from test_make import make

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_generated_from_the_index(tmp_path):
    done = make("readme", f"README={tmp_path / 'README.md'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == TEXT, "run `make readme`"


def test_it_opens_with_a_purpose_and_two_commands():
    first = next(block for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
    assert first.split("\n")[:-1] == ["make demo", "make test"]
    assert "```" not in TEXT[:TEXT.index("```sh")]


def chapters():
    "Path, title and summary of every chapter, in order"
    for chapter in load_book(ROOT).chapters:
        opening = re.match(r"# (.*)\n\n> (.*)", chapter.cells[0].source)
        if chapter.path != "nbs/index.ipynb":
            yield chapter.path, opening[1], opening[2]


def test_tutorials_come_first_and_then_the_map_lists_every_chapter_in_order():
    paths = [path for path, _, _ in chapters()]
    tutorials = [path for path in paths if is_tutorial(path)]
    assert len(tutorials) >= 10 and re.findall(r"\]\((nbs/[\w/]+\.ipynb)\)", TEXT) == tutorials + [path for path in paths if path not in tutorials]


def test_the_map_says_what_the_chapters_say():
    lines = [f"[{title}]({path}): {summary}" for path, title, summary in chapters()]
    assert [line for line in lines if line not in TEXT.replace("**", "")] == []


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"\b((?:nbs|tests|use_cases)/[\w/]+\.(?:ipynb|py))", text)
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_the_commands_it_names_are_there():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    named = set(re.findall(r"`make ([a-z-]+)", TEXT))
    assert named and named <= set(targets)


def test_the_example_runs_as_written(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks and sum(len([line for line in block.splitlines() if line.strip()]) for block in blocks) <= 12
    code = "\n".join(blocks)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    names, numbers, site = (line.split() for line in done.stdout.strip().splitlines())
    assert float(numbers[names.index("r2")]) > .6 and "TATAAATA" in site[1]
