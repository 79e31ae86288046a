"""Hyperparameter search: the words, the trials, what they may see, what comes back; once under Ray, and once interrupted."""
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
from eugene.etl.sequences import random_seqs
from eugene.training import hyperopt as chapter
from eugene.training.configs import from_config, load_config
from eugene.training.fit import fit_dataset
from eugene.training.hyperopt import draw_trials, fill, find_spaces, fit_config, hyperopt, plot_search, search_data, search_table

CONFIG = {"arch": {"name": "CNN", "input_len": 24, "conv": {"channels": {"choice": [2, 4, 6]}, "kernels": {"int": [3, 5]}}, "dense": {}},
          "module": {"lr": {"loguniform": [1e-3, 1e-1]}}, "fit": {"epochs": 2, "batch_size": 25, "seed": 3, "transforms": [{"name": "RandomRC", "p": {"uniform": [0, .5]}}]}}


def data(seed=0, test=50):
    seqs = random_seqs(150 + test, 24, seed=seed)
    ds = make_dataset(seqs, targets=np.array([[s.count("A") - s.count("CG")] for s in seqs], float), target_names=["y"])
    ds["split"] = "sequence", np.repeat(["train", "val", "test"], [100, 50, test])
    return ds


def quick(config, out, ds=None, **kw): return hyperopt(config, data() if ds is None else ds, out, **{"n": 3, "address": "here", **kw})


# ---------------------------------------------------------------- words and trials

numbers = st.floats(1e-6, 1e6)
spaces = st.one_of(
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.booleans()), min_size=1, max_size=4).map(lambda v: {"choice": v}),
    st.tuples(numbers, numbers).filter(lambda v: v[0] < v[1]).flatmap(lambda v: st.sampled_from([{"uniform": list(v)}, {"loguniform": list(v)}])),
    st.tuples(st.integers(1, 50), st.integers(1, 50)).filter(lambda v: v[0] < v[1]).flatmap(lambda v: st.sampled_from([{"int": list(v)}, {"logint": list(v)}])))


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(st.sampled_from("abcd"), st.one_of(spaces, st.lists(spaces, min_size=1, max_size=2), st.dictionaries(st.sampled_from("xy"), spaces, min_size=1)), min_size=1), seed=st.integers(0, 99))
def test_every_draw_is_inside_its_space(tree, seed):
    found = find_spaces(tree)
    trials = draw_trials(tree, 5, seed)
    assert trials == draw_trials(tree, 5, seed) and draw_trials(tree, 2, seed) == trials[:2]
    assert len({json.dumps(t, sort_keys=True) for t in trials}) == len(trials)
    for values in trials:
        assert set(values) == set(found) and find_spaces(fill(tree, values)) == {}
        for path, (word, ends) in found.items():
            v = values[path]
            assert v in ends if word == "choice" else ends[0] <= v <= ends[1]
            if word.endswith("int"): assert isinstance(v, int)
        assert yaml.safe_load(yaml.safe_dump(fill(tree, values))) == fill(tree, values)


def test_a_grid_is_every_combination():
    grid = {"arch": {"a": {"choice": ["x", "y"]}}, "fit": {"b": {"int": [1, 3]}, "c": [{"choice": [True, False]}]}}
    want = set(itertools.product("xy", (1, 2, 3), (True, False)))
    for n in (None, 12, 1000): assert {tuple(t.values()) for t in draw_trials(grid, n)} == want
    assert len(draw_trials(grid, 7)) == 7


def test_words_are_yaml(tmp_path):
    (tmp_path / "s.yaml").write_text("arch: {name: CNN, input_len: 24, conv: {channels: {choice: [2, 4]}, kernels: 3}, dense: {}}\nmodule: {lr: {loguniform: [1e-4, 1e-2]}}\nfit: {epochs: 1}\n")
    found = quick(tmp_path / "s.yaml", tmp_path / "out", n=2)
    assert found.table["module.lr"].between(1e-4, 1e-2).all()


@pytest.mark.parametrize(("change", "message"), [
    ({"module": {"lr": {"loguniform": [0, 1]}}}, "`module.lr`: loguniform needs a smallest value above 0"), ({"module": {"lr": {"uniform": [1]}}}, r"uniform takes \[smallest, largest\]"),
    ({"module": {"lr": {"choice": .1}}}, "`module.lr`: choice takes a list"), ({"module": {"lrr": {"uniform": [0, 1]}}}, "section `module` of config, trial 0.*Did you mean 'lr'"),
    ({"module": {"lr": {"loguniforms": [0, 1]}}}, "None of 3 trials has a result")])
def test_a_wrong_space_is_said_with_its_place(tmp_path, change, message):
    with pytest.raises((ValueError, RuntimeError), match=message): quick({**CONFIG, **change}, tmp_path / "out")


# ---------------------------------------------------------------- the test rows

@pytest.fixture
def spied(monkeypatch):
    "Every Dataset that reaches a trial, by way of either runner"
    seen = []
    def spy(config, ds, *args, **kw):
        seen.append(ds)
        return {"val_loss": 1., "epoch": 1, "finished": True}
    monkeypatch.setattr(chapter, "run_trial", spy)
    return seen


def test_no_row_to_test_on_reaches_a_trial(spied, tmp_path):
    ds = data()
    quick(CONFIG, tmp_path / "out", ds)
    secret = set(ds["seq"].values[150:].tobytes()[i:i + 24] for i in range(0, 50 * 24, 24))
    for given in spied:
        assert given.sizes["sequence"] == 150 and set(given["split"].values.astype(str)) == {"train", "val"}
        rows = {r.tobytes() for r in given["seq"].values}
        assert not rows & secret and not any(getattr(v.variable._data, "base", None) is not None and len(v) != 150 for v in given.data_vars.values() if "sequence" in v.dims)
    assert len(spied) == 3


def test_ray_is_handed_the_same(monkeypatch, tmp_path):
    handed = []
    monkeypatch.setattr(chapter, "_run_ray", lambda configs, ds, *a, **kw: handed.append(ds) or [{"val_loss": 1., "finished": True}] * len(configs))
    quick(CONFIG, tmp_path / "out", address=None)
    assert set(handed[0]["split"].values.astype(str)) == {"train", "val"} and handed[0].sizes["sequence"] == 150


def test_nothing_depends_on_the_test_rows(tmp_path):
    ds, poisoned = data(), data()
    poisoned["targets"][150:] = np.nan
    poisoned["seq"][150:] = ord("N")
    assert quick(CONFIG, tmp_path / "a", ds).table["val_loss"].tolist() == quick(CONFIG, tmp_path / "b", poisoned).table["val_loss"].tolist()
    assert quick(CONFIG, tmp_path / "c", ds.isel(sequence=slice(0, 150))).best == load_config(tmp_path / "a" / "best.yaml")


def test_train_and_validation_do_not_overlap(tmp_path):
    "The original package validated on training rows (indices inverted bit by bit)"
    found = quick(CONFIG, tmp_path / "out", n=1)
    manifest = json.loads((tmp_path / "out" / "trials" / "0000" / "manifest.json").read_text())
    assert manifest["data"]["rows"] == {"train": 100, "val": 50} and manifest["data"]["hash"]["train"] != manifest["data"]["hash"]["val"]
    seen = search_data(data())
    assert not {r.tobytes() for r in seen["seq"].values[:100]} & {r.tobytes() for r in seen["seq"].values[100:]}


def test_a_store_on_disk_is_read_and_cut(tmp_path):
    to_zarr(data(), tmp_path / "ds.zarr")
    assert quick(CONFIG, tmp_path / "a", open_zarr(tmp_path / "ds.zarr")).table["val_loss"].tolist() == quick(CONFIG, tmp_path / "b").table["val_loss"].tolist()


# ---------------------------------------------------------------- what comes back

def test_the_best_config_runs_again_with_the_same_loss(tmp_path):
    found = quick(CONFIG, tmp_path / "out", n=4)
    assert found.table["val_loss"].is_monotonic_increasing and found.best == load_config(tmp_path / "out" / "best.yaml") and find_spaces(found.best) == {}
    again = fit_config(tmp_path / "out" / "best.yaml", data(), tmp_path / "again", progress=False)
    assert again.manifest["metrics"]["val_loss"] == pytest.approx(found.table["val_loss"][0], abs=1e-6)
    best = {k: v for k, v in found.best["fit"].items() if k != "transforms"}
    by_hand = fit_dataset(from_config(found.best, seed=3), data(), tmp_path / "hand", progress=False, transforms=chapter.make_transforms(found.best["fit"]["transforms"]), **best)
    assert by_hand.manifest["metrics"]["val_loss"] == pytest.approx(found.table["val_loss"][0], abs=1e-6)
    assert pd.read_csv(tmp_path / "out" / "table.csv")["val_loss"].tolist() == pytest.approx(found.table["val_loss"].tolist())


def test_same_seed_same_search(tmp_path):
    one, two, other = (quick(CONFIG, tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1)))
    pd.testing.assert_frame_equal(one.table, two.table)
    assert not one.table["module.lr"].isin(other.table["module.lr"]).any()


def test_a_config_is_left_alone(tmp_path):
    before = json.dumps(CONFIG)
    quick(CONFIG, tmp_path / "out")
    assert json.dumps(CONFIG) == before


def test_a_trial_that_fails_is_shown_and_the_others_go_on(tmp_path, caplog):
    config = {**CONFIG, "arch": {**CONFIG["arch"], "conv": {"channels": 4, "kernels": {"choice": [3, 99]}}}}
    with caplog.at_level(logging.WARNING, "eugene"): found = quick(config, tmp_path / "out", n=4)
    bad = found.table[found.table["arch.conv.kernels"] == 99]
    assert len(bad) and (bad["status"] == "failed").all() and bad["val_loss"].isna().all() and found.table["status"][0] == "finished"
    assert bad["error"].str.contains("section `arch`").all() and len(caplog.records) == len(bad)
    assert all("'arch.conv.kernels': 99" in r.getMessage() and "section `arch`" in r.getMessage() for r in caplog.records)


def test_all_failed_is_an_error(tmp_path):
    config = {**CONFIG, "arch": {**CONFIG["arch"], "conv": {"channels": 4, "kernels": {"choice": [98, 99]}}}}
    with pytest.raises(RuntimeError, match="None of 9 trials has a result. The first error: ValueError: section `arch`"): quick(config, tmp_path / "out", n=9)
    assert (pd.read_csv(tmp_path / "out" / "table.csv")["status"] == "failed").all() and not (tmp_path / "out" / "best.yaml").exists()


def test_a_loss_that_explodes_is_a_failed_trial(tmp_path):
    config = {**CONFIG, "module": {"optimizer": "sgd", "lr": {"choice": [1e-3, 1e12]}}}
    found = quick(config, tmp_path / "out", n=4)
    assert found.table.loc[found.table["module.lr"] == 1e12, "error"].str.contains("became").all() and found.table["module.lr"][0] == 1e-3


def test_a_folder_is_not_begun_anew_in_silence(tmp_path):
    first = quick(CONFIG, tmp_path / "out")
    with pytest.raises(FileExistsError, match="resume=True"): quick(CONFIG, tmp_path / "out")
    for change, message in [({"seed": 1}, "trials"), ({"ds": data(seed=5)}, "data"), ({"n": 2}, "trials")]:
        with pytest.raises(ValueError, match=message): quick(CONFIG, tmp_path / "out", resume=True, **change)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").glob("*/best.ckpt")}
    again = quick(CONFIG, tmp_path / "out", resume=True)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").glob("*/best.ckpt")}


def test_an_interrupted_search_goes_on(tmp_path, monkeypatch):
    run, calls = chapter.run_trial, []
    def third_is_fatal(*args):
        calls.append(args)
        if len(calls) == 3: raise KeyboardInterrupt
        return run(*args)
    monkeypatch.setattr(chapter, "run_trial", third_is_fatal)
    with pytest.raises(KeyboardInterrupt): quick(CONFIG, tmp_path / "out", n=4)
    monkeypatch.setattr(chapter, "run_trial", run)
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").glob("*/best.ckpt")}
    found = quick(CONFIG, tmp_path / "out", n=4, resume=True)
    assert len(done) == 2 and all(p.stat().st_mtime_ns == t for p, t in done.items())
    pd.testing.assert_frame_equal(found.table, quick(CONFIG, tmp_path / "whole", n=4).table)


def test_the_table_has_a_row_for_every_trial():
    trials = [{"module.lr": .1}, {"module.lr": .2}, {"module.lr": .3}, {"module.lr": .4}]
    reports = [{"val_loss": .5, "val_r2": .1, "epoch": 4, "finished": True}, {"val_loss": .2, "epoch": 2}, {"error": "ValueError: no", "val_loss": float("inf"), "epoch": 1}, {}]
    table = search_table(trials, reports)
    assert table["trial"].tolist()[:2] == [1, 0] and table["status"].tolist()[:2] == ["stopped", "finished"] and set(table["status"][2:]) == {"failed", "not run"}
    assert table.loc[table["status"] == "failed", "error"].item() == "ValueError: no" and table["val_loss"].isna().sum() == 2
    assert list(table)[:3] == ["trial", "module.lr", "val_loss"]
    axes = plot_search(table)
    assert len(axes) == 1 and axes[0].get_xlabel() == "module.lr"


# ---------------------------------------------------------------- Ray

def test_without_ray_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"eugene\[tune\]"): quick(CONFIG, tmp_path / "out", address=None)


def test_a_search_under_ray(tmp_path, capfd):
    "About 20 s on two idle cores, nearly all of it the start of processes"
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'eugene[tune]'")
    pytest.importorskip("ray.tune", reason="ray has no tune: pip install 'eugene[tune]'")
    config = {**CONFIG, "arch": {**CONFIG["arch"], "conv": {"channels": 4, "kernels": {"choice": [3, 99]}}}, "module": {"lr": .01}, "fit": {"epochs": 2, "batch_size": 25, "seed": 3}}
    before = dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), logging.getLogger("ray").level, set(Path(tempfile.gettempdir()).glob("ray*"))
    home = {p.name for p in Path.home().glob(".*")} | {p.name for p in Path.home().glob("*")}
    found = quick(config, tmp_path / "ray", n=None, address=None, max_concurrent=1, stop_early="asha")
    assert not ray.is_initialized()
    assert before == (dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), logging.getLogger("ray").level, set(Path(tempfile.gettempdir()).glob("ray*")))
    assert home == {p.name for p in Path.home().glob(".*")} | {p.name for p in Path.home().glob("*")}
    assert found.table["status"].tolist() == ["finished", "failed"] and found.table["error"].str.contains("section `arch`").sum() == 1
    here = quick(config, tmp_path / "here", n=None)
    assert found.best == here.best
    both = [t.set_index("trial").sort_index()["val_loss"] for t in (found.table, here.table)]
    assert np.allclose(*both, equal_nan=True, atol=1e-4)
    shown = capfd.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err, shown


def test_more_than_there_is_is_refused_at_once(monkeypatch, tmp_path):
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'eugene[tune]'")
    import contextlib
    class Small:
        @staticmethod
        def cluster_resources(): return {"CPU": 2.0}
    monkeypatch.setattr(chapter, "ray_session", lambda *a: contextlib.nullcontext(Small))
    for asked, message in [({"cpus": 3}, "asks for 3 CPU, and there are 2"), ({"gpus": 1}, "asks for 1 GPU, and there are 0")]:
        with pytest.raises(ValueError, match=message): quick(CONFIG, tmp_path / str(asked), address=None, **asked)


SCRIPT = """
import sys; sys.path[:0] = {path!r}
from test_hyperopt import CONFIG, data
from eugene.training.hyperopt import hyperopt
if __name__ == "__main__":
    found = hyperopt({{**CONFIG, "fit": {{"epochs": 30, "batch_size": 4, "patience": None, "seed": 3}}}}, data(), {out!r}, n=5, max_concurrent=1, resume={resume})
    print(found.table.to_json())
"""


@pytest.mark.slow
def test_an_interrupted_search_goes_on_under_ray(tmp_path):
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'eugene[tune]'")
    def start(resume):
        (tmp_path / "search.py").write_text(SCRIPT.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[1])], out=str(tmp_path / "out"), resume=resume))
        return subprocess.Popen([sys.executable, str(tmp_path / "search.py")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
    first, until = start(False), time.time() + 200
    while len(list((tmp_path / "out").glob("trials/*/manifest.json"))) < 2 and first.poll() is None and time.time() < until: time.sleep(.2)
    while first.poll() is None: first.send_signal(signal.SIGINT); time.sleep(10)
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("trials/*/manifest.json")}
    assert first.returncode != 0 and 2 <= len(done) < 5
    second = start(True)
    out, _ = second.communicate(timeout=400)
    assert second.returncode == 0 and set(json.loads(out)["status"].values()) == {"finished"} and len(json.loads(out)["trial"]) == 5
    assert all(p.stat().st_mtime_ns == t for p, t in done.items())


def test_a_mistake_deep_in_a_file_is_told_with_the_name_of_the_file(tmp_path):
    from eugene.etl.simulation import Plant, simulate
    (tmp_path / "tower.yaml").write_text("arch: {name: CNN, input_len: 40, conv: {channels: [4, 4], kernels: 5, pool: [null, max], pool_kernel: 6}}")
    ds = simulate(n=20, length=40, plants=[Plant("TATAAA", 1.)], seed=0).ds
    with pytest.raises(ValueError, match="section `arch` of tower.yaml: `conv`: Floor 0 of the tower: pool_kernel=6 means nothing without a pool"):
        fit_config(tmp_path / "tower.yaml", ds, tmp_path / "run")
