"""Settings of sphinx for the site of the book. `docs/build.py` prepares the pages and calls sphinx with this file."""
from configparser import ConfigParser
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
_parser = ConfigParser(delimiters=["="])
_parser.read(ROOT / "settings.ini", encoding="utf-8")
_settings = _parser["DEFAULT"]

project = html_title = html_short_title = _settings["title"]
version = release = _settings["version"]
author = _settings["author"]
copyright = _settings["copyright"]
language = "en"

extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_render_image_options = {}
myst_enable_extensions = ["dollarmath", "deflist", "fieldlist", "attrs_block"]
myst_links_external_new_tab = False
suppress_warnings = ["mystnb.unknown_mime_type"]
smartquotes = False
add_module_names = False
toc_object_entries_show_parents = "hide"
exclude_patterns = []

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
html_logo = "static/icon.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": [],
                      "light_css_variables": dict.fromkeys(("color-brand-primary", "color-brand-content", "color-brand-visited"), "#0b6b74"),
                      "dark_css_variables": dict.fromkeys(("color-brand-primary", "color-brand-content", "color-brand-visited"), "#5cc8d0")}


class Defines(SphinxDirective):
    "The anchors of what the next cell defines: a line each, `module.name`, the name as it is spoken, its place in the reference"
    has_content = True

    def run(self):
        box, domain = nodes.container(classes=["defines"]), self.env.get_domain("std")
        for full, spoken, place in (line.split() for line in self.content):
            anchor, (page, _, target) = f"def-{full.rpartition('.')[2]}", place.partition("#")
            line = nodes.paragraph(ids=[anchor])
            domain.anonlabels[f"def:{full}".lower()] = domain.anonlabels[f"def:{full}"] = (self.env.docname, anchor)
            domain.labels[f"def:{full}"] = (self.env.docname, anchor, spoken)
            up = "../" * self.env.docname.count("/")
            line += nodes.reference("", "", nodes.literal(text=spoken), refuri=f"#{anchor}", internal=True, classes=["name"])
            line += nodes.Text(" ")
            line += nodes.reference("", "reference", refuri=f"{up}{page}.html#{target}", internal=True, classes=["see"])
            box += line
        return [box]


def mathml(self, node):
    "A formula as MathML, which browsers set by themselves: no script, nothing to load"
    block = isinstance(node, nodes.math_block)
    tree = latex2mathml.tex2mathml(node.astext(), as_block=block)
    text = tree if isinstance(tree, str) else tree.toxml()
    self.body.append(f'<div class="math">{text}</div>' if block else text)
    raise nodes.SkipNode


def true_dashes(app, doctree):
    "Sphinx writes two hyphens between a parameter and its text"
    for text in [t for t in doctree.findall(nodes.Text) if t == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))


def setup(app):
    app.connect("doctree-read", true_dashes)
    app.add_directive("defines", Defines)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


html_math_renderer = "mathml"
