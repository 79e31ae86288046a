"""The site: every link, picture and name of it resolves, and in a real browser it can be read, searched and carried in a pocket."""
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from book_rules import load_book

ROOT = Path(__file__).resolve().parents[1]
missing = [name for name in ("sphinx", "myst_nb", "furo") if importlib.util.find_spec(name) is None]
needs_sphinx = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}; pip install -e '.[docs]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The whole site, built as `make docs` builds it; a warning of sphinx fails it"
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "build.py"), "--out", str(folder / "html"), "--cache", str(folder / "cache")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "html"


@pytest.fixture(scope="session")
def pages(site):
    "Every page by its place, as text"
    return {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in sorted(site.rglob("*.html"))}


def without_words(page):
    "The tags of a page without what scripts, styles and examples of markup say"
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def ids(page):
    return re.findall(r'<[a-z][^>]*?\sid="([^"]*)"', without_words(page))


def addresses(page):
    "What a page links to and what it loads"
    tags = re.findall(r"<[a-z][^>]*>", without_words(page))
    return [unescape(a) for tag in tags for a in re.findall(r'\s(?:href|src)="([^"]*)"', tag)]


@pytest.fixture(scope="session")
def anchors(pages):
    return {place: set(ids(page)) for place, page in pages.items()}


def notebook_page(path):
    "The page of a chapter: its path without numbers"
    pieces = [re.sub(r"^\d\d_", "", piece) for piece in Path(path).with_suffix("").parts[1:]]
    return "/".join("index" if piece == "part" else piece for piece in pieces) + ".html"


# ---------------------------------------------------------------- the files

@needs_sphinx
def test_every_link_picture_and_anchor_resolves(site, pages, anchors):
    dead = set()
    for place, page in pages.items():
        for address in addresses(page):
            if re.match(r"(https?|mailto|data):", address):
                continue
            path, _, anchor = address.partition("#")
            path = unquote(path.partition("?")[0])
            target = os.path.normpath(os.path.join(os.path.dirname(place), path)) if path else place
            if not (site / target).is_file() or (anchor and target in anchors and unquote(anchor) not in anchors[target]):
                dead.add(f"{place}: {address}")
    assert sorted(dead) == []


@needs_sphinx
def test_a_page_loads_nothing_from_elsewhere(pages):
    loads = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\ssrc=\"https?:[^\"]*|<link\b(?=[^>]*\srel=\"(?:stylesheet|preload|icon)\")[^>]*\shref=\"https?:[^\"]*")
    assert [f"{place}: {m[0]}" for place, page in pages.items() for m in loads.finditer(page)] == []


@needs_sphinx
def test_no_page_has_an_id_twice(pages):
    assert [place for place, page in pages.items() if len(ids(page)) != len(set(ids(page)))] == []


@needs_sphinx
def test_every_chapter_is_in_the_sidebar_in_order(pages):
    tree = re.search(r'<div class="sidebar-tree">(.*?)</aside>', pages["index.html"], re.DOTALL)[1]
    links = [(href, re.sub(r"^\d+\.\d+ ", "", unescape(text))) for href, text in re.findall(r'<a class="reference internal" href="([^"#]+)">([^<]+)</a>', tree)]
    chapters = [c for c in load_book(ROOT).chapters if c.path != "nbs/index.ipynb" and not c.path.startswith("nbs/tutorials/")]
    tutorials = [c for c in load_book(ROOT).chapters if c.path.startswith("nbs/tutorials/")]
    expected = [(notebook_page(c.path), re.match(r"# (.*)", c.cells[0].source)[1]) for c in (*chapters, *tutorials)]
    assert links[:len(expected)] == expected
    assert [href for href, _ in links[len(expected):] if href.startswith("use_cases/")][0] == "use_cases/index.html"
    assert {"reference/index.html", "reference/architectures.html", "reference/datasets.html", "benchmarks.html", "contributing.html", "changelog.html"} <= {href for href, _ in links}


@needs_sphinx
def test_every_public_name_is_in_the_reference_and_at_its_cell(pages, anchors):
    import eugene
    names = set(dir(eugene)) - {"__version__"}
    listed = re.findall(r'<td><p><a class="reference internal" href="([^"]+)"[^>]*>(?:<[^>]+>)*([^<]+)', pages["reference/index.html"])
    assert names - {name for _, name in listed} == set()
    functions = names - set(eugene._MODULES)
    assert {f"eugene.{name}" for name in functions} <= set().union(*(anchors[f"reference/{part}.html"] for part in ("core", "etl", "layers", "models", "training", "interpretation")))
    homes = {name: module.replace(".", "/") + ".html" for name, module in eugene._HOME.items()}
    assert [name for name in functions if f"def-{name}" not in anchors[homes[name]]] == []


@needs_sphinx
def test_a_signature_has_what_the_comments_say(pages):
    entry = pages["reference/interpretation.html"].partition('id="eugene.positional_importance"')[2].partition("</dl>\n</dd>")[0]
    words = unescape(re.sub(r"<[^>]+>", "", entry))
    for said in ("model", "nn.Module", "batch_size=128", "Distance between", "default 128", "np.ndarray", "In silico experiments"):
        assert said in words


@needs_sphinx
def test_the_search_knows_the_names(site, pages):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\)", text.strip(), re.DOTALL)[1])
    found = {row[4] if isinstance(row[4], str) else row[-1] for row in index["objects"]["eugene"]} if isinstance(index["objects"]["eugene"], list) else set(index["objects"]["eugene"])
    assert "positional_importance" in found
    term = next(t for t in index["terms"] if t.startswith("positional_import"))
    pages_of = index["terms"][term] if isinstance(index["terms"][term], list) else [index["terms"][term]]
    assert "interpretation/in_silico" in {index["docnames"][n] for n in pages_of}


@needs_sphinx
def test_pages_show_the_figures_and_not_the_directives(pages):
    few, told = [], []
    for chapter in load_book(ROOT).chapters:
        page = pages[notebook_page(chapter.path)]
        drawn = sum(any(k.startswith("image/") for k in o.get("data", {})) for c in chapter.cells if "hide" not in c.directives for o in c.outputs)
        drawn += sum(len(re.findall(r"!\[[^\]]*\]\(", c.source)) for c in chapter.cells if c.kind == "markdown")
        few += [chapter.path] if len(re.findall(r'<img[^>]*src="[^"]*_images/', page)) != drawn else []
        told += [chapter.path] if re.search(r'<span class="c1">#\|', page) else []
    assert (few, told) == ([], [])


@needs_sphinx
def test_cards_and_lists_are_complete(pages):
    import eugene as eu
    assert [name for name in eu.list_archs() if f'id="{name.lower()}-card"' not in pages["reference/architectures.html"]] == []
    assert [name for name in eu.datasets.CARDS if name not in pages["reference/datasets.html"]] == []
    stored = ROOT / "tests" / "benchmarks" / "results.md"
    assert ("<table" in pages["benchmarks.html"]) if stored.exists() else ("No results are stored" in pages["benchmarks.html"])


# ---------------------------------------------------------------- a small book

@pytest.fixture
def small(monkeypatch):
    "A site of two chapters that need no file"
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import book
    import pages as made
    source = '#| export\ndef count(\n    seq:str,         # A sequence\n    letter:str="A",  # Base, `ACGT`\n) -> int:            # Times\n    "How often"\n    return seq.count(letter)'
    cell = {"cell_type": "code", "id": "c", "source": source, "outputs": []}
    names = list(book.defined(source, "etl.words", "c", {"count": "etl.words"}))
    chapters = [book.Chapter("nbs/01_etl/01_words.ipynb", "etl/words", "Words", "", "etl.words", "1.1", [cell], names),
                book.Chapter("nbs/02_layers/01_sum.ipynb", "layers/sum", "Sum", "", "layers.sum", "2.1", [], [])]
    return made, made.Site(ROOT, chapters, {c.path: c.page for c in chapters})


def test_docments_are_read(small):
    name = small[1].names[0]
    assert [tuple(p) for p in name.params] == [("seq", "str", "", "A sequence"), ("letter", "str", "'A'", "Base, `ACGT`")]
    assert name.returns == ("int", "Times") and name.doc == "How often"


@pytest.mark.parametrize("text, expected", [
    ("see `count`", "see [`count`](#def:etl.words.count)"),
    ("`eu.count(seq)`, `eu.nothing`", "[`eu.count(seq)`](#def:etl.words.count), `eu.nothing`"),
    ("## The `count`\n\nof `count`", "## The `count`\n\nof [`count`](#def:etl.words.count)"),
    ("```python\n`count`\n```", "```python\n`count`\n```"),
    ("[Words](../01_etl/01_words.ipynb) and [`count`](https://a.b)", "[Words](../etl/words.ipynb) and [`count`](https://a.b)"),
    ("`nbs/01_etl/01_words.ipynb`", "[`nbs/01_etl/01_words.ipynb`](../etl/words.ipynb)"),
    ("$`count`$", "$`count`$"),
])
def test_prose_gets_its_links(small, text, expected):
    assert small[1].link_names(text, "layers/sum") == expected


def test_a_parameter_is_not_taken_for_a_function(small):
    assert small[1].link_names("`letter`, `seq`", "etl/words") == "`letter`, `seq`"


def test_a_file_that_is_no_page_comes_along(small):
    assert small[1].link_names("![a](../../tests/conftest.py)", "layers/sum") == "![a](../files/tests/conftest.py)"
    assert small[1].files == {"files/tests/conftest.py": ROOT / "tests" / "conftest.py"}


def test_a_dead_link_is_named(small):
    with pytest.raises(small[0].DeadLink, match="02_layers/01_sum.ipynb links to 09_gone.ipynb"):
        small[1].link_names("[gone](09_gone.ipynb)", "layers/sum")


# ---------------------------------------------------------------- in a browser

@pytest.fixture(scope="module")
def address(site):
    "The site, served on this machine"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def driver():
    "Chromium without a screen"
    if not (CHROMIUM and DRIVER):
        pytest.skip("no browser: chromium and chromedriver are not on the path")
    webdriver = pytest.importorskip("selenium.webdriver", reason="not installed: selenium; pip install -e '.[docs]'")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


def window(driver, width, height=900, scheme="light"):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def find(driver, selector, seconds=20):
    "The first element once it can be seen"
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(driver, seconds).until(lambda d: next((e for e in d.find_elements("css selector", selector) if e.is_displayed()), None))


def complaints(driver):
    "What the console calls an error"
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


@needs_sphinx
def test_from_the_front_page_to_a_chapter_and_on(driver, address):
    window(driver, 1300)
    driver.get(address + "index.html")
    assert driver.title.startswith("eugene")
    find(driver, ".sidebar-tree a[href='interpretation/index.html']").click()
    find(driver, ".sidebar-tree a[href='in_silico.html']").click()
    assert find(driver, "article h1").text.startswith("In silico experiments")
    assert "5.15 In silico experiments" in find(driver, ".sidebar-tree .current-page > a").text
    find(driver, "a.next-page").click()
    assert find(driver, "article h1").text.startswith("Backgrounds")
    assert complaints(driver) == []


@needs_sphinx
def test_the_search_finds_a_function(driver, address):
    window(driver, 1300)
    driver.get(address + "index.html")
    find(driver, "input.sidebar-search").send_keys("positional_importance\n")
    first = find(driver, "#search-results li a")
    assert first.text == "eugene.positional_importance"
    chapter = find(driver, "#search-results a[href*='interpretation/in_silico.html']")
    first.click()
    assert "#eugene.positional_importance" in driver.current_url and "Scores with" in find(driver, "dt[id='eugene.positional_importance'] + dd").text
    find(driver, "dt[id='eugene.positional_importance'] + dd a[href$='in_silico.html#def-positional_importance']").click()
    assert chapter is not None and "def positional_importance(" in find(driver, "#def-positional_importance").find_element("xpath", "following::pre").text
    assert complaints(driver) == []


@needs_sphinx
def test_every_page_fits_a_phone_and_has_its_pictures(driver, address, pages):
    window(driver, 390, 844)
    wide, small, broken = [], [], []
    for place in pages:
        driver.get(address + place)
        width, size, bad = driver.execute_script("""
            const text = document.querySelector('article p');
            return [document.documentElement.scrollWidth, text ? parseFloat(getComputedStyle(text).fontSize) : 16,
                    [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)]""")
        wide += [place] if width > 390 else []
        small += [place] if size < 12 else []
        broken += [f"{place}: {b}" for b in bad]
    assert (wide, small, broken, complaints(driver)) == ([], [], [], [])


@needs_sphinx
def test_the_menu_of_a_phone_opens(driver, address):
    window(driver, 390, 844)
    driver.get(address + "etl/splits.html")
    left = "return document.querySelector('.sidebar-drawer').getBoundingClientRect().left"
    assert driver.execute_script(left) < 0
    find(driver, "label[for='__navigation'].nav-overlay-icon, .nav-overlay-icon label, label.nav-overlay-icon").click()
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(driver, 10).until(lambda d: d.execute_script(left) >= 0)
    find(driver, ".sidebar-tree a[href='homology.html']").click()
    assert find(driver, "article h1").text.startswith("Homology")
    prose = driver.execute_script("return parseFloat(getComputedStyle(document.querySelector('article section > p:not([class])')).fontSize)")
    assert prose >= 15


CONTRAST = """
const light = c => { const v = c.map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 }); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
const rgba = s => s.match(/[\\d.]+/g).map(Number);
const ground = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .99) return c } return [255, 255, 255] };
return [...document.querySelectorAll('article p, article a, article pre span, article .where, .sidebar-tree a, article td, article dd')].slice(0, 3000).map(e => {
    const a = light(rgba(getComputedStyle(e).color)), b = light(ground(e)); return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.className + ' ' + e.textContent.slice(0, 30)] }).sort((x, y) => x[0] - y[0])[0]"""


@needs_sphinx
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_from_their_ground(driver, address, scheme):
    "Contrast of at least 4.5, which the accessibility guidelines (WCAG 2.2, AA) ask of text"
    window(driver, 1300, scheme=scheme)
    for place in ("index.html", "interpretation/in_silico.html", "reference/architectures.html", "reference/interpretation.html"):
        driver.get(address + place)
        ratio, words = driver.execute_script(CONTRAST)
        assert ratio >= 4.5, f"{place}, {scheme}: {words!r}"
