"""A report read by a parser: every section or its reason, images that decode, nothing from elsewhere, nothing unescaped"""
import base64
import logging
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

from eugene.etl.motifs import motif_from_consensus
from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import ohe, random_seqs
from eugene.etl.simulation import Plant, simulate
from eugene.interpretation import report as module
from eugene.interpretation.attributions import attribute
from eugene.interpretation.mutagenesis import base_importance, ism
from eugene.interpretation.report import SECTIONS, Study, _errors, html_table, report
from eugene.layers.initialization import init_from_motifs
from eugene.training.evaluation import evaluate
from eugene.training.fit import fit_dataset
from eugene.training.sequence_module import SequenceModule
from toy_models import LinearModel

PLANTS = [Plant("TATAWAWA", 2., name="TATA"), Plant("GAGCCGCC", -1.5, name="GCC-box")]
MOTIFS = [*(p.motif for p in PLANTS), motif_from_consensus("TGACGTCA", "CRE")]
EVIL = "<b>a & \"$x^\" <script>"
FAST = dict(split=None, n=1, most=40, device="cpu")


class Page(HTMLParser):
    "The structure of a page; fails on a tag that closes another than the last one opened"
    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.images, self.text, self.styles = [], set(), [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        assert not any(k.startswith("on") for k in attrs)
        if "id" in attrs: self.ids.append(attrs["id"])
        if "href" in attrs: self.links.append(attrs["href"])
        if tag == "img":
            assert attrs["alt"] and attrs["src"].startswith("data:image/png;base64,")
            self.images.append(base64.b64decode(attrs["src"].split(",", 1)[1], validate=True))
        if tag not in self.VOID: self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): (self.styles if self.open and self.open[-1] == "style" else self.text).append(data)

    @property
    def words(self): return " ".join(self.text)


def read(made):
    "The page of a report, after the checks that hold for every page"
    from matplotlib.image import imread
    import io
    text = made.path.read_text(encoding="utf-8")
    page = Page(text)
    assert made.size == made.path.stat().st_size == len(text.encode())
    assert not page.tags & {"script", "link", "iframe", "object", "b", "base", "form"} and "http" not in text and "url(" not in text and "@import" not in text
    assert all(a.startswith("#") and a[1:] in page.ids for a in page.links) and len(set(page.ids)) == len(page.ids)
    for data in page.images: assert imread(io.BytesIO(data)).std() > 0  # decodes, and is not blank
    assert f"{len(page.images)} figures" in page.words
    return page


def network(outputs=1, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv1d(4, 5, 8), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(5, outputs))
    init_from_motifs(net, [p.motif for p in PLANTS], kind="ppm")
    return net


def data(task, n=60):
    "Simulated sequences with targets of each kind"
    ds = simulate(n, 60, PLANTS, noise=.3, seed=1).ds
    y = ds["targets"].values
    second = np.where(np.arange(n)[:, None] % 7 == 0, np.nan, (y < 0).astype(float))
    targets = {"regression": y, "binary": (y > 0) * 1., "multilabel": np.hstack([(y > 0) * 1., second]), "multiclass": np.digitize(y, [-1, 1]) * 1., "poisson": np.round(np.exp(y / 2))}[task]
    names = [EVIL, "second"][:targets.shape[1]]
    return make_dataset(ds["seq"].values, targets=targets, target_names=names, ids=[f"<i>{k}" for k in range(n)], missing="keep")


OUTPUTS = {"regression": 1, "binary": 1, "multilabel": 2, "multiclass": 3, "poisson": 1}
FIGURE = {"regression": "Predicted against measured", "poisson": "Predicted against measured", "binary": "ROC and precision-recall", "multilabel": "ROC and precision-recall", "multiclass": "Confusion matrix"}


@pytest.mark.parametrize("task", OUTPUTS)
def test_every_task_has_its_page(tmp_path, task):
    "All sections but the run; metrics are those of `evaluate`; the figure is of the task's kind; names are text"
    ds, model = data(task), SequenceModule(network(OUTPUTS[task]), task=task)
    model.train()
    made = report(model, ds, tmp_path / "a.html", motifs=MOTIFS, title=EVIL, **FAST)
    page = read(made)
    assert page.ids == [*SECTIONS, "left-out"] and list(made.left_out) == ["run"] and model.training
    assert EVIL in page.words and "<i>" in page.words and FIGURE[task] in page.words
    table = evaluate(model, ds, split=None, device="cpu")
    for _, row in table.iterrows():
        assert f"{row['n']}" in page.words
        for metric in table.columns[2:]: assert ("–" if np.isnan(row[metric]) else f"{row[metric]:.3g}") in page.words
    assert "TATA" in page.words and "shuffled" in page.words and "started as" in page.words
    assert "No folder of a run" in page.words


def test_run_folder_is_told(tmp_path):
    ds = data("regression")
    ds["split"] = "sequence", np.repeat(["train", "val", "test"], [40, 10, 10]).astype(object)
    run = fit_dataset(SequenceModule(network()), ds, tmp_path / "run", epochs=2, batch_size=16, device="cpu", progress=False)
    page = read(report(run.module, ds, tmp_path / "a.html", run=tmp_path / "run", device="cpu", sections=["versions", "run"]))
    assert page.ids == ["run", "versions", "left-out"] and len(page.images) == 1
    for word in (str(run.manifest["best_epoch"]), run.manifest["checkpoint"]["sha256"], "data.rows.train", "fit.epochs"): assert word in page.words
    assert page.words.count("not asked for") == len(SECTIONS) - 2


def test_only_the_split_that_was_asked_for(tmp_path):
    ds = data("regression")
    ds["split"] = "sequence", np.repeat(["train", "val", "test"], [40, 10, 10]).astype(object)
    made = report(SequenceModule(network()), ds, tmp_path / "a.html", device="cpu", sections=["performance"])
    assert "10 sequences" in read(made).words


def test_what_does_not_apply_is_said(tmp_path, caplog):
    "No targets, no convolution, no motifs, no summary: a page all the same"
    ds = data("regression").drop_vars("targets")
    with caplog.at_level(logging.WARNING, "eugene"): made = report(LinearModel(np.random.default_rng(0).normal(size=(4, 60))), ds, tmp_path / "a.html", **FAST)
    page = read(made)
    assert set(made.left_out) == {"run", "performance", "filters", "experiment"}
    assert "no `targets`" in made.left_out["performance"] and "no convolution" in made.left_out["filters"] and "motifs" in made.left_out["experiment"]
    for why in made.left_out.values(): assert page.words.count(why) == 2  # in its place, and at the end
    assert "worst predictions are not known" in page.words and "filters" in caplog.text


def test_a_section_that_fails_does_not_take_the_page_with_it(tmp_path, monkeypatch, caplog):
    import matplotlib.pyplot as plt
    def broken(s):
        plt.figure()
        raise RuntimeError("lost <its> mind")
    monkeypatch.setitem(SECTIONS, "filters", ("Filters", broken))
    before = plt.get_fignums()
    with caplog.at_level(logging.WARNING, "eugene"): made = report(SequenceModule(network()), data("regression"), tmp_path / "a.html", **FAST)
    assert "RuntimeError: lost <its> mind" in made.left_out["filters"] and "lost <its> mind" in caplog.text
    assert "lost <its> mind" in read(made).words and plt.get_fignums() == before and "performance" in made.sections


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_one_class_has_no_curve_and_scores_no_probabilities(tmp_path, task):
    ds = data(task)
    if task == "binary": ds = ds.assign(targets=0 * ds["targets"])
    model = SequenceModule(network(), task="binary") if task == "binary" else network(3)  # a plain network: scores, no activation
    page = read(report(model, ds, tmp_path / "a.html", task=task, sections=["performance", "sequences"], **FAST))
    assert ("both classes" if task == "binary" else "no probabilities") in page.words


# ---------------------------------------------------------------- which sequences

@pytest.mark.parametrize("task", OUTPUTS)
def test_worst_is_worst(task):
    "Against the definition, written out row by row"
    ds, model = data(task), SequenceModule(network(OUTPUTS[task]), task=task)
    s = Study(model, ds, task, target=OUTPUTS[task] - 1, how={"device": "cpu"})
    for k, e in enumerate(_errors(s)):
        y = s.y[k]
        want = 1 - s.pred[k, int(y[0])] if task == "multiclass" else abs(y[s.target] - s.pred[k, s.target])
        np.testing.assert_allclose(e, want, atol=1e-6)


def test_margin_of_scores_without_probabilities():
    s = Study(network(), data("binary"), "binary", how={"device": "cpu"})
    assert ((_errors(s) > 0) == ((s.pred[:, 0] > 0) != (s.y[:, 0] > 0))).all()  # on the wrong side


@pytest.mark.parametrize("method", ["input_x_gradient", "ism"])
def test_contributions_are_those_of_the_method(method):
    model, ds = network(), data("regression")
    s = Study(model, ds, "regression", method=method, how={"device": "cpu", "batch_size": 16})
    x = s.encode([3, 1])
    np.testing.assert_array_equal(x, ohe(ds["seq"].values[[3, 1]]))
    want = attribute(model, x, device="cpu").values if method != "ism" else base_importance(ism(model, x, device="cpu"), x)
    np.testing.assert_allclose(module._contributions(s, x), want, atol=1e-5)


def test_long_sequences_are_cut_where_they_contribute(tmp_path):
    values = np.zeros((4, 900))
    values[2, 600:610] = -1
    a, b = module._stretch(values)
    assert b - a == 200 and a <= 600 and b >= 610
    ds = make_dataset(random_seqs(5, 500, seed=0), targets=np.arange(5.)[:, None])
    page = read(report(network(), ds, tmp_path / "a.html", sections=["sequences"], **FAST))
    assert "200 of 500 bp" in page.words


def test_sequences_of_several_lengths(tmp_path):
    ds = make_dataset([s[:30 + 3 * k] for k, s in enumerate(random_seqs(10, 60, seed=0))], targets=np.arange(10.)[:, None], length="pad")
    made = report(SequenceModule(network()), ds, tmp_path / "a.html", motifs=MOTIFS, **FAST)
    read(made)
    assert list(made.left_out) == ["run"]


# ---------------------------------------------------------------- at the door

BAD = {
    "section": (dict(sections=["performence"]), ValueError, "Did you mean 'performance'"),
    "text": (dict(sections="filters"), TypeError, "expected a list"),
    "method": (dict(method="saliency map"), ValueError, "choose one of"),
    "n": (dict(n=0), ValueError, "n=0"),
    "target": (dict(target=1), ValueError, "counted from 0"),
    "task": (dict(task="ranking"), ValueError, "Unknown task"),
    "motifs": (dict(motifs=[]), ValueError, "`motifs` is empty"),
    "run": (dict(run="nowhere"), FileNotFoundError, "no folder"),
    "split": (dict(split="test"), ValueError, "no `split`"),
    "out": (dict(out=3), TypeError, "`out` is an int"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_a_file_is_there(tmp_path, case):
    kw, error, words = BAD[case]
    with pytest.raises(error, match=words): report(SequenceModule(network()), data("regression"), **{"out": tmp_path / "a.html", **FAST, **kw})
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept_unless_told(tmp_path):
    model, ds, file = SequenceModule(network()), data("regression"), tmp_path / "a.html"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"): report(model, ds, file, **FAST)
    assert file.read_text() == "mine"
    read(report(model, ds, file, overwrite=True, sections=["versions"], **FAST))
    assert [f.name for f in tmp_path.iterdir()] == ["a.html"]


def test_a_model_of_profiles_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one number a sequence"): report(nn.Conv1d(4, 2, 5), data("regression"), tmp_path / "a.html", **FAST)


def test_global_state_stays(tmp_path):
    import matplotlib.pyplot as plt
    before, figures, state = dict(plt.rcParams), plt.get_fignums(), np.random.get_state()[1].copy()
    torch_state = torch.get_rng_state()
    report(SequenceModule(network()), data("regression"), tmp_path / "a.html", motifs=MOTIFS, **FAST)
    assert dict(plt.rcParams) == before and plt.get_fignums() == figures
    assert (np.random.get_state()[1] == state).all() and torch.equal(torch.get_rng_state(), torch_state)


def test_tables_escape_everything():
    import pandas as pd
    text = html_table(pd.DataFrame({EVIL: [EVIL, None], "k": [True, False]}))
    assert "<script>" not in text and "<b>" not in text and "–" in text and "True" in text
    Page(text)
