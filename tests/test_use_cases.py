"""The use cases, run as a user runs them: by `use_cases/run.py`, which executes the notebook with papermill."""
import base64
import gzip
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"use_case", "scale", "data", "models", "interpretation", "seconds"}
ROW = {"target", "variant", "seed", "rows", "r2", "pearson", "spearman", "mse"}


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "use_cases" / "run.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def check_metrics(metrics, scale):
    "The promises of `metrics.json` that hold at every scale"
    assert set(metrics) >= KEYS
    assert (metrics["use_case"], metrics["scale"]) == ("jores21", scale)
    assert metrics["seconds"] > 0 and metrics["models"] and metrics["interpretation"]
    assert metrics["checks"] and all(metrics["checks"].values())
    assert all(np.diff(metrics["interpretation"]["evolution"]) >= 0)
    for rows in metrics["models"].values():
        assert rows
        for row in rows:
            assert set(row) >= ROW
            assert row["rows"] > 0 and row["mse"] > 0
            assert row["r2"] <= 1 and all(-1 <= row[name] <= 1 for name in ("pearson", "spearman"))


# ---------------------------------------------------------------- jores21, simulated

@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    "The folder that `make demo` fills"
    out = tmp_path_factory.mktemp("runs") / "demo"
    done = run("jores21", "--scale", "smoke", "--out", out, "--fresh")
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_smoke_recovers_what_was_planted(smoke):
    metrics = json.loads((smoke[0] / "metrics.json").read_text())
    check_metrics(metrics, "smoke")
    truth, interpretation = metrics["truth"], metrics["interpretation"]
    assert all(abs(row["r2"] - truth["r2_ceiling_on_test"]) <= .1 for rows in metrics["models"].values() for row in rows)
    assert truth["ism_auroc"] > .8 and truth["deeplift_auroc"] > .8
    means = {row["implant"]: row["mean"] for row in interpretation["tata"]}
    assert max(means, key=means.get) == "TATA box" and means["TATA box"] > interpretation["tata"][0]["no implant"]
    assert truth["filters_close_to_a_planted_motif"] > 0 and interpretation["filters_initialised"] == 1
    assert not metrics["data"]["published_rows"] and "SIMULATED" in metrics["data"]["note"]


def test_smoke_leaves_a_page_with_code_and_figures(smoke):
    out, _ = smoke
    html = (out / "jores21.html").read_text(encoding="utf-8")
    assert html.count("data:image/png;base64") >= 10 and "eu.simulate" in re.sub(r"<[^>]+>", "", html)
    assert len(list((out / "figures").glob("*.png"))) >= 10
    assert list(out.rglob("manifest.json")) and list(out.rglob("*.ckpt"))
    page = nbformat.read(out / "jores21.ipynb", as_version=4)
    assert [o for cell in page.cells for o in cell.get("outputs", []) if o.output_type == "error"] == []
    assert [o.text for cell in page.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"] == []


def test_smoke_ends_on_a_table_and_the_page_to_open(smoke):
    out, shown = smoke
    lines = shown.strip().splitlines()
    assert lines[-1].endswith(f"Open {out / 'jores21.html'}")
    assert any(line.startswith("model") and "r2" in line for line in lines)
    assert any(line.startswith("CNN") for line in lines)


def test_missing_data_is_said_before_anything_is_trained(tmp_path):
    done = run("jores21", "--scale", "sample", "--out", tmp_path / "out", EUGENE_DATA=str(tmp_path / "nothing"), EUGENE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr and "EUGENE_DATA" in done.stderr and str(tmp_path / "out" / "jores21.ipynb") in done.stderr
    assert not list((tmp_path / "out").rglob("*.ckpt"))


# ---------------------------------------------------------------- jores21, measured

needs_data = pytest.mark.skipif(not os.environ.get("EUGENE_DATA"), reason="EUGENE_DATA does not name the folder with the data")


@pytest.mark.slow
@needs_data
def test_sample_learns_from_real_promoters(tmp_path):
    out = Path(os.environ.get("EUGENE_RUNS", tmp_path)) / "jores21-sample"
    done = run("jores21", "--scale", "sample", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((out / "metrics.json").read_text())
    check_metrics(metrics, "sample")
    assert {"CNN", "Hybrid", "DeepSTARR", "Jores21CNN"} <= set(metrics["models"]) and metrics["data"]["published_rows"]
    assert {row["system"] for rows in metrics["models"].values() for row in rows} == {"leaf", "proto", "combined"}
    assert any(row["paper"] for row in metrics["table"]) and all(row["source"] for row in metrics["table"] if row["paper"] is not None)
    best = {row["system"]: max(r["r2"] for r in metrics["summary"] if r["system"] == row["system"] and "authors" not in r["model"]) for row in metrics["summary"]}
    assert best["leaf"] > .3 and best["proto"] > .2


def some_rows(source, target, every):
    "A copy of a compressed table with every so manieth row"
    target.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt") as f:
        lines = f.readlines()
    with gzip.open(target, "wt") as f:
        f.writelines([lines[0], *lines[1::every]])


def other_rows(folder):
    "The data folder with a fifteenth of the promoters and everything else in the same layout"
    source = Path(os.environ["EUGENE_DATA"])
    for which in ("leaf", "proto"):
        some_rows(source / "jores21" / f"jores21_{which}_dev.tsv.gz", folder / "jores21" / f"jores21_{which}_dev.tsv.gz", 15)
    for place in ("jores21/promoters_for_evolution.tsv", "jores21/jores21_evolved_promoters.tsv.gz", "jores21/jores21_synthetic_promoters.tsv.gz",
                  "jores21/evolution_data.tsv.gz", "motifs/CPEs.meme", "motifs/TF-clusters.meme"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / place, folder / place)
    return folder


@pytest.mark.slow
@needs_data
def test_rows_of_ones_own_in_the_same_layout(tmp_path):
    "The whole notebook on other rows; too few to learn from, so that only the checks of the scores may fail"
    folder, out = other_rows(tmp_path / "data"), tmp_path / "out"
    done = run("jores21", "--scale", "sample", "--out", out, "-p", "epochs", 1, "-p", "device", "cpu", EUGENE_DATA=str(folder))
    metrics = json.loads((out / "metrics.json").read_text()) if (out / "metrics.json").exists() else pytest.fail(done.stderr[-3000:])
    assert not metrics["data"]["published_rows"] and metrics["data"]["rows"]["leaf"]["train"] < 300
    assert all(row["data"] == "own rows" for row in metrics["table"] if row["data"])
    assert {name for name, holds in metrics["checks"].items() if not holds} <= {name for name in metrics["checks"] if "TATA box" in name or "control" in name or "share of ten" in name}
    table = (out / "figures" / "designs.png")
    assert table.is_file() and len(list((out / "figures").glob("*.png"))) >= 12


@needs_data
def test_the_complete_tables_are_taken_from_the_cache(tmp_path):
    "The scale `full` as far as its data: a small copy in the layout of the public tables, without a network"
    import eugene as eu
    folder = tmp_path / "cache" / "jores21"
    folder.mkdir(parents=True)
    for which in ("leaf", "proto"):
        with gzip.open(Path(os.environ["EUGENE_DATA"]) / "jores21" / f"jores21_{which}_dev.tsv.gz", "rt") as f:
            lines = [line.rstrip("\n").split("\t")[:5] for line in f][:201]
        for side, rows in (("train", lines[1:161]), ("test", lines[161:])):
            (folder / f"CNN_{side}_{which}.tsv").write_text("\n".join("\t".join([row[0] if row is lines[0] else side, *row[1:]]) for row in [lines[0], *rows]) + "\n")
    ds = eu.datasets.jores21("leaf", "full", path=tmp_path / "cache", content="any")
    assert (ds["set"].values == "train").sum() == 160 and ds.sizes["sequence"] == 200
    with pytest.raises(ValueError, match="expected 72158"):
        eu.datasets.jores21("leaf", "full", path=tmp_path / "cache")


# ---------------------------------------------------------------- every case on a GPU

CASES = [p.stem.partition("_")[2] for p in sorted((ROOT / "use_cases").glob("[0-9][0-9]_*.ipynb"))]


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_the_sample_on_a_gpu(case, tmp_path):
    import torch
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if not os.environ.get("EUGENE_DATA"):
        pytest.skip("EUGENE_DATA does not name the folder with the data")
    out = Path(os.environ.get("EUGENE_RUNS", tmp_path)) / f"{case}-sample-cuda"
    done = run(case, "--scale", "sample", "--out", out, "-p", "device", "cuda")
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["scale"] == "sample" and "CPU core" in metrics["hardware"] and torch.cuda.get_device_name() in metrics["hardware"]
    assert metrics["checks"] and all(metrics["checks"].values())


# ---------------------------------------------------------------- the runner itself, on a notebook of three cells

def toy(folder, last):
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}})
    parameters = nbformat.v4.new_code_cell("scale = 'none'\nout = 'nowhere'\nepochs = 0")
    parameters.metadata["tags"] = ["parameters"]
    nb.cells = [nbformat.v4.new_markdown_cell("# Toy"), parameters, nbformat.v4.new_code_cell(last)]
    nbformat.write(nb, folder / "07_toy.ipynb")


METRICS = {"use_case": "toy", "scale": "smoke", "data": {"note": "simulated"}, "seconds": 1.0, "interpretation": {"auroc": .91234, "list": [1, 2]},
           "checks": {"holds": True}, "models": {"CNN": [{"target": "y", "r2": .5}], "Longer": [{"target": "y", "r2": None}]}}
GOOD = f"import json, pathlib; json.dump({METRICS!r} | {{'scale': scale, 'epochs': epochs}}, open(pathlib.Path(out)/'metrics.json', 'w'))"


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # the runner takes it away; put back afterwards
    spec = importlib.util.spec_from_file_location("use_case_run", ROOT / "use_cases" / "run.py")  # by its place: the benchmarks have a run.py too
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_that_fails_leaves_the_last_result_in_place(runner, tmp_path, capsys):
    toy(tmp_path, GOOD)
    arguments = ["toy", "--scale", "smoke", "--out", str(tmp_path / "runs" / "toy"), "--fresh", "-p", "epochs", "3"]
    runner.main(arguments, tmp_path)
    assert "toy, scale smoke" in capsys.readouterr().out
    kept = json.loads((tmp_path / "runs/toy/metrics.json").read_text())
    assert kept["epochs"] == 3 and "Toy" in (tmp_path / "runs/toy/toy.html").read_text(encoding="utf-8")
    toy(tmp_path, "raise ValueError('no such promoter')")
    with pytest.raises(SystemExit) as stop:
        runner.main(arguments, tmp_path)
    assert "ValueError: no such promoter" in str(stop.value) and str(tmp_path / "runs/toy-failed/toy.ipynb") in str(stop.value)
    assert json.loads((tmp_path / "runs/toy/metrics.json").read_text()) == kept
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["toy", "toy-failed"]


BAR = """import sys, time
for n in range(3):
    sys.stderr.write(f"\\rfit: {n}/3"); sys.stderr.flush(); time.sleep(.3)
sys.stderr.write("\\r        \\r"); sys.stderr.flush(); time.sleep(.3)
sys.stderr.write("something to know\\n")
"""


def test_bars_move_on_the_terminal_and_leave_no_trace_on_the_page(runner, tmp_path, capfd):
    toy(tmp_path, BAR + GOOD)
    runner.main(["toy", "--scale", "smoke", "--out", str(tmp_path / "runs")], tmp_path)
    shown = capfd.readouterr().err
    assert "fit: 0/3" in shown and "fit: 2/3" in shown and "something to know" not in shown and "TCP" not in shown
    outputs = [o for cell in nbformat.read(tmp_path / "runs/toy.ipynb", as_version=4).cells for o in cell.get("outputs", [])]
    assert "".join(o.text for o in outputs if o.get("name") == "stderr") == "something to know\n"


def test_a_killed_run_is_cleared_away(runner, tmp_path):
    out, before = tmp_path / "demo", tmp_path / ".demo.before"
    for folder, text in ((out, "half"), (before, "whole")):
        folder.mkdir()
        (folder / "metrics.json").write_text(text)
    with pytest.raises(RuntimeError):
        with runner.result_folder(out, fresh=True):
            raise RuntimeError
    assert (out / "metrics.json").read_text() == "whole" and not before.exists()


def test_without_fresh_a_folder_keeps_what_it_holds(runner, tmp_path):
    (tmp_path / "best.ckpt").write_text("trained")
    with runner.result_folder(tmp_path, fresh=False) as out:
        assert (out / "best.ckpt").read_text() == "trained"


def test_the_summary_is_a_table_with_aligned_columns(runner):
    assert runner.summary(METRICS).splitlines() == [
        "toy, scale smoke", "", "model   target  r2", "CNN     y       0.5", "Longer  y", "", "note   simulated", "auroc  0.9123", "holds  yes"]


def test_an_unknown_case_lists_the_cases(runner):
    with pytest.raises(SystemExit, match="no use case 'jores'.*jores21"):
        runner.find_notebook("jores", ROOT / "use_cases")


NOISE = """import io, sys
import numpy as np
from PIL import Image
from IPython.display import Image as Shown, display
buffer = io.BytesIO(); Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)).save(buffer, format="PNG")
display(Shown(buffer.getvalue(), format="png"))
print("kept in /" + "tmp/somewhere/file.txt"); sys.stderr.write("a warning")
"""


def test_a_stored_page_is_small_and_of_no_machine(runner, tmp_path):
    toy(tmp_path, NOISE + GOOD)
    runner.main(["toy", "--scale", "smoke", "--out", str(tmp_path / "runs"), "--executed"], tmp_path)
    stored = tmp_path / "executed" / "07_toy-smoke.ipynb"
    nb = nbformat.read(stored, as_version=4)
    nbformat.validate(nb)
    outputs = [o for cell in nb.cells for o in cell.get("outputs", [])]
    figures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(figures) == 1 and len(base64.b64decode(figures[0])) <= runner.FIGURE_BYTES and stored.stat().st_size <= runner.PAGE_BYTES
    from PIL import Image
    assert Image.open(io.BytesIO(base64.b64decode(figures[0]))).width > 100
    text = stored.read_text()
    assert "tmp/somewhere" not in "".join(o.get("text", "") for o in outputs) and "kept in ..." in text and not [o for o in outputs if o.get("name") == "stderr"]
    assert nb.metadata.kernelspec.name == "python3" and "papermill" not in nb.metadata
