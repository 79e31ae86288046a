"""RNA-binding proteins, run as a user runs them: by `use_cases/run.py`, at smoke scale, on measured probes, and on a table of one's own"""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from eugene.training.kmer_metrics import METRIC_WORDS
from eugene.training.studies import TABLE_COLUMNS, read_published

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"use_case", "scale", "data", "models", "interpretation", "seconds", "checks", "table", "hardware", "commit", "replicates"}
ROW = {"target", "rbp", "variant", "seed", "rows", "r2", "pearson", "spearman", "mse", "kmers"} | {f"{m}_{how}" for m in METRIC_WORDS for how in ("pearson", "spearman")}
real = pytest.mark.skipif(not os.environ.get("EUGENE_DATA"), reason="EUGENE_DATA does not name the folder with the data")


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "use_cases" / "run.py"), "deepbind_rbp", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def check_metrics(metrics, scale):
    "The promises of `metrics.json` that hold at every scale"
    assert set(metrics) >= KEYS and (metrics["use_case"], metrics["scale"]) == ("deepbind_rbp", scale)
    assert metrics["checks"] and all(metrics["checks"].values()) and metrics["seconds"] > 0
    assert set(metrics["models"]) == {"Single task", "Multitask"}
    for rows in metrics["models"].values():
        assert rows
        for row in rows:
            assert set(row) == ROW and row["rows"] > 0 and row["mse"] > 0 and row["r2"] <= 1
            assert all(-1 <= row[c] <= 1 for c in ROW if c.endswith(("pearson", "spearman")) and row[c] is not None)
            assert abs(row["pearson"] - row["intensity_pearson"]) < 1e-6  # the same number by two ways
    for scores in metrics["interpretation"]["evolution"].values():
        assert len(scores) == 6 and all(np.diff(scores) >= -1e-9)
    assert all(list(row) == list(TABLE_COLUMNS) for row in metrics["table"])
    assert all(row["source"] for row in metrics["table"] if row["paper"] is not None)


FAKE = """#!{python}
import json, sys
words = sys.argv[1:]
args = json.loads(next(w for w in words if w.startswith("--dataloader_args=")).split("=", 1)[1])
seqs = dict(r.split("\\n")[:2] for r in open(args["fasta_file"]).read().split(">")[1:])
assert {{len(s) for s in seqs.values()}} == {{101}} and set("".join(seqs.values())) <= set("ACGTN"), "not what DeepBind takes"
with open(words[words.index("-o") + 1], "w") as out:
    print("metadata/ranges/chr", "preds/0", sep="\\t", file=out)
    for name, s in seqs.items(): print(name, s.count("GCATG"), sep="\\t", file=out)
"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    "A run on simulated probes, with a stand-in for Kipoi that counts the planted word"
    folder = tmp_path_factory.mktemp("rbp")
    command = folder / "env" / "bin" / "kipoi"
    command.parent.mkdir(parents=True)
    command.write_text(FAKE.format(python=sys.executable))
    command.chmod(0o755)
    out = folder / "smoke"
    done = run("--scale", "smoke", "--out", out, "--fresh", "-p", "kipoi", '{"GCAUG": "Count/GCATG"}', "-p", "kipoi_env", command.parent.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout, json.loads((out / "metrics.json").read_text())


def test_smoke_recovers_what_was_planted(smoke):
    _, _, metrics = smoke
    check_metrics(metrics, "smoke")
    assert "SIMULATED" in metrics["data"]["note"]
    replicates = {row["target"]: row["z_pearson"] for row in metrics["replicates"]}
    poor = replicates.pop("poor experiment")
    assert min(replicates.values()) > .8 and abs(poor) < .2
    for rows in metrics["models"].values():
        known = {row["rbp"]: row["z_pearson"] for row in rows}
        assert known.pop("poor experiment") < .4 and min(known.values()) > .7
    assert {row["rbp"] for row in metrics["models"]["Multitask"]} == {"GCAUG", "UAGGG", "poor experiment"}  # 2 % missing: left out


def test_smoke_masks_missing_labels_and_drops_rows_for_single_tasks(smoke):
    rows = {name: {row["rbp"]: row["rows"] for row in table} for name, table in smoke[2]["models"].items()}
    assert len(set(rows["Multitask"].values())) == 1
    assert rows["Single task"]["CUAAC, 2 % missing"] < rows["Single task"]["GCAUG"] <= rows["Multitask"]["GCAUG"] == rows["Single task"]["poor experiment"]


def test_smoke_runs_the_models_of_others(smoke):
    "The stand-in for Kipoi knows the word by heart, so it is as good as can be"
    metrics = smoke[2]
    assert metrics["interpretation"]["kipoi"] == "1 models of Kipoi were compared"
    assert metrics["medians"]["pearson"]["Kipoi, here"]["intensity"] > .75


def test_smoke_compares_with_no_paper(smoke):
    assert all(row["paper"] is None and "simulated" in row["data"] or row["ours"] is not None for row in smoke[2]["table"])
    assert all(row["paper"] is None for row in smoke[2]["table"])


def test_smoke_leaves_a_page_with_code_and_figures(smoke):
    out, shown, _ = smoke
    html = (out / "deepbind_rbp.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64") >= 9 and "simulate_probes" in re.sub(r"<[^>]+>", "", html)
    assert {p.stem for p in (out / "figures").glob("*.png")} == {"1b_replicates", "history", "1b_2a_boxes", "1c_single_multi", "1d_filters_multitask", "1d_filters_single",
                                                                 "1d_filters_and_performance", "1e_attributions", "1f_evolution_scores", "1f_evolution"}
    assert len(list(out.rglob("manifest.json"))) == 5 and list(out.rglob("*.ckpt"))
    page = nbformat.read(out / "deepbind_rbp.ipynb", as_version=4)
    outputs = [o for cell in page.cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert shown.strip().splitlines()[-1].endswith(f"Open {out / 'deepbind_rbp.html'}")


def test_published_numbers_are_quartiles_with_a_source():
    published = read_published(ROOT / "use_cases/configs/ray13/published.yaml")
    for how in ("pearson", "spearman"):
        for name, boxes in published[f"boxes_{how}"]["value"].items():
            assert set(boxes) in ({"e", "z", "auc"}, {"e", "z", "auc", "intensity"}), name
            assert all(0 < low < mid < high < 1 for low, mid, high in boxes.values()), name
    assert published["probes"]["value"]["train_single"] + published["probes"]["value"]["test"] == 241_357


def test_missing_data_is_said_before_anything_is_trained(tmp_path):
    done = run("--scale", "sample", "--out", tmp_path / "out", EUGENE_DATA=str(tmp_path / "nothing"), EUGENE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr and "EUGENE_DATA" in done.stderr and not list((tmp_path / "out").rglob("*.ckpt"))


# ---------------------------------------------------------------- measured probes

@pytest.mark.slow
@real
def test_a_table_of_ones_own_in_the_same_layout(tmp_path):
    "Every tenth probe, three experiments under other names, two epochs; Kipoi is asked for and not there"
    source = Path(os.environ["EUGENE_DATA"])
    table = pd.read_csv(source / "ray13/rnacompete_probes_19rbp.tsv.gz", sep="\t").iloc[::10, [0, 1, 4, 10, 20]]
    table.columns = ["Probe_Set", "RNA_Seq", "my protein", "other", "third"]
    table.loc[table.index[5], "other"] = np.nan
    (tmp_path / "ray13").mkdir()
    table.to_csv(tmp_path / "ray13/rnacompete_probes_19rbp.tsv.gz", sep="\t", index=False)
    (tmp_path / "motifs").symlink_to(source.resolve() / "motifs")
    done = run("--scale", "sample", "--out", tmp_path / "out", "-p", "epochs", 2, "-p", "kipoi", '{"other": "DeepBind/x"}', "-p", "kipoi_env", tmp_path / "no" / "env", EUGENE_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    check_metrics(metrics, "sample")
    assert metrics["data"]["own"] and "your own" in metrics["data"]["note"] and metrics["data"]["probes"] == len(table)
    assert {row["rbp"] for row in metrics["models"]["Single task"]} == {"my protein", "other", "third"}
    assert metrics["interpretation"]["kipoi"].startswith("Kipoi was not run") and metrics["interpretation"]["k"] < 7


@pytest.mark.slow
@real
def test_sample_learns_from_measured_probes(tmp_path):
    out = Path(os.environ.get("EUGENE_RUNS", tmp_path)) / "deepbind_rbp-sample"
    done = run("--scale", "sample", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((out / "metrics.json").read_text())
    check_metrics(metrics, "sample")
    assert metrics["data"]["experiments"] == 19 and metrics["interpretation"]["k"] == 7
    for rows in metrics["models"].values():
        assert len(rows) == 19 and np.median([row["z_pearson"] for row in rows]) > .7
