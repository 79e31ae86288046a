"""llms.txt names what is there: every name exists, every argument is one, every link leads somewhere, and its code runs."""
import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import eugene as eu
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "llms.txt").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```python\n.*?```", "", TEXT, flags=re.DOTALL)


def missing_names(text):
    return sorted(name for name in set(re.findall(r"\beu\.(\w+)(?!\w*\*)", text)) if not hasattr(eu, name))


def calls(text):
    "`(function, words)` of every call in backticks; `word=` without a value stands for any"
    for written in re.findall(r"`(eu\.\w+\(.*?\))`", text):
        call = ast.parse(re.sub(r"=(?=[,)])", "=None", written), mode="eval").body
        positional = [a.id for a in call.args if isinstance(a, ast.Name)]
        yield call.func.attr, positional, [k.arg for k in call.keywords]


PASSED_ON = {"fit_dataset": "fit", "score_variants": "variant_windows"}  # whose arguments `**` takes


def parameters(name):
    return list(inspect.signature(getattr(eu, name)).parameters)


def wrong_words(text):
    "Arguments that a function does not have; a positional name is one of its parameters, in their order"
    found = []
    for name, positional, words in calls(text):
        names = parameters(name)
        found += [f"{name}: {w}" for w in words if w not in names + (parameters(PASSED_ON[name]) if name in PASSED_ON else [])]
        found += [f"{name}: {p}" for p, own in zip(positional, names) if p != own]
    return found


def test_every_name_is_there():
    assert len(set(re.findall(r"\beu\.\w+", PROSE))) > 80
    assert missing_names(TEXT) == []


def test_every_argument_is_one():
    assert len(list(calls(PROSE))) > 30
    assert wrong_words(PROSE) == []


@pytest.mark.parametrize("text, found", [("`eu.evolv`", ["evolv"]), ("`eu.plot_*`", []), ("`eu.ism(model, x)`", [])])
def test_a_wrong_name_is_found(text, found):
    assert missing_names(text) == found


@pytest.mark.parametrize("text, found", [("`eu.ism(model, x, targets=)`", ["ism: targets"]), ("`eu.ism(x, model)`", ["ism: x", "ism: model"]), ("`eu.ism(model, x, target=)`", [])])
def test_a_wrong_argument_is_found(text, found):
    assert wrong_words(text) == found


def test_its_code_runs(tmp_path):
    check = "\nassert y.shape == (len(x), 1) and effects.shape == shares.shape == (4, 4, 60)\nassert (eu.predict(again, x) == y).all()"
    done = subprocess.run([sys.executable, "-c", "\n".join(CODE) + check], cwd=tmp_path, capture_output=True, text=True)
    assert CODE and done.returncode == 0, done.stderr[-2000:]


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links and [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_tasks_it_names_are_those_there_are():
    named = set(re.search(r"tasks `([\w ]+)`", TEXT)[1].split())
    assert named <= set(eu.TASKS) and {t for t in eu.TASKS if t != "profile"} <= named
