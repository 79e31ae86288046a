"""The JunD use case, run as a user runs it: simulated, from a small genome in the layout of the full data, and on rows of one's own."""
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml

import eugene as eu

ROOT = Path(__file__).resolve().parents[1]
DATA = os.environ.get("EUGENE_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="EUGENE_DATA does not name the folder with the data")
ROW = {"target", "variant", "seed", "rows", "test_rows", "blind", "auprc", "auroc", "low", "high"}


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "use_cases" / "run.py"), "jund", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def metrics_of(out, scale):
    "What a run left, with the promises that hold at every scale"
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["use_case"], metrics["scale"]) == ("jund", scale)
    assert metrics["checks"] and all(metrics["checks"].values())
    for rows in metrics["models"].values():
        assert rows
        for row in rows:
            assert set(row) >= ROW
            assert 0 <= row["auprc"] <= 1 and 0 <= row["auroc"] <= 1 and row["low"] <= row["auprc"] + .05 and 0 < row["blind"] < 1
    page = nbformat.read(out / "jund.ipynb", as_version=4)
    outputs = [o for cell in page.cells for o in cell.get("outputs", [])]
    assert [o for o in outputs if o.output_type == "error"] == []
    assert [o.text for o in outputs if o.get("name") == "stderr" and "reach beyond the end of a chromosome" not in o.text] == []
    assert len(list((out / "figures").glob("*.png"))) >= 8
    return metrics


# ---------------------------------------------------------------- simulated

@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "jund"
    done = run("--scale", "smoke", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_smoke_recovers_what_was_planted(smoke):
    metrics = metrics_of(smoke, "smoke")
    best = metrics["models"][metrics["interpretation"]["model"]][0]
    assert best["auprc"] > .7 > best["blind"]
    assert any(hit["motif"] == "JUND" and hit["q"] < .05 for hit in metrics["interpretation"]["filter_hits"])
    change = {row["index"]: row["change"] for row in metrics["interpretation"]["implant"]}
    assert change["JunD consensus"] > max(v for name, v in change.items() if name != "JunD consensus")
    assert {"random", "zeros", "shuffled, k = 1", "shuffled, k = 2"} <= set(change)


def test_smoke_bins_are_those_of_the_peaks(smoke):
    "Counted again, bin by bin, from the BED file that the run left"
    etl = json.loads((smoke / "metrics.json").read_text())["data"]["etl"]["simulated"]
    peaks, sizes = eu.read_bed(smoke / "genome" / "peaks.bed"), eu.GenomeFASTA(smoke / "genome" / "genome.fa").contigs()
    total = {"trimmed": 0, "untrimmed": 0}
    positive = {"trimmed": 0, "untrimmed": 0}
    for chrom, length in sizes.items():
        here = peaks[peaks["chrom"] == chrom]
        inside = np.zeros(length, bool)
        for start, end in here[["start", "end"]].values:
            inside[max(start - 1000, 0):end + 1000] = True
        if chrom == "chr1":
            inside[100_000:110_000] = False
        bound = np.zeros(length, bool)
        for start, end in here[["start", "end"]].values:
            bound[start:end] = True
        edges = np.flatnonzero(np.diff(np.r_[0, inside, 0]))
        for start, end in edges.reshape(-1, 2):
            for how, (a, b) in {"untrimmed": (start, end), "trimmed": (-(-start // 200) * 200, end // 200 * 200)}.items():
                bins = [bound[s:s + 200].any() for s in range(a, b - 199, 200)]
                total[how] += len(bins)
                positive[how] += sum(bins)
    for how in total:
        assert (etl[f"bins, {how}"], etl[f"positive, {how}"]) == (total[how], positive[how])


def test_a_second_run_takes_up_what_was_trained(smoke):
    before = {path: path.stat().st_mtime_ns for path in smoke.glob("runs/*/best.ckpt")}
    first = json.loads((smoke / "metrics.json").read_text())
    done = run("--scale", "smoke", "--out", smoke)
    assert done.returncode == 0, done.stderr[-3000:]
    assert before and {path: path.stat().st_mtime_ns for path in smoke.glob("runs/*/best.ckpt")} == before
    assert json.loads((smoke / "metrics.json").read_text())["models"] == first["models"]


def test_missing_data_is_said_before_anything_is_trained(tmp_path):
    done = run("--scale", "sample", "--out", tmp_path / "out", EUGENE_DATA=str(tmp_path / "nothing"), EUGENE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr and "EUGENE_DATA" in done.stderr
    assert not list((tmp_path / "out").rglob("*.ckpt"))


def test_every_published_number_says_where_it_stands():
    published = yaml.safe_load((ROOT / "use_cases/configs/jund/published.yaml").read_text(encoding="utf-8"))
    assert published["bins"]["value"] == 1_013_080
    assert all(entry["source"].startswith("Klie et al. 2023") for entry in published.values())
    best, spread = published["auprc_best"]["value"], published["auprc_range"]["value"]
    assert best["dsCNN"] > best["dsHybrid"] > best["Kopp21CNN-2023"] > best["dsFCN"]
    assert all(low <= high <= best[name] + .0011 for name, (low, high) in spread.items())


# ---------------------------------------------------------------- a small genome in the layout of the full data

def small_hg38(folder, seed=0):
    "Peaks, genome, blacklist and motifs under the names of the public files, small enough for a test"
    gen = np.random.default_rng(seed)
    (folder / "jund").mkdir(parents=True)
    (folder / "motifs").mkdir()
    seqs, lines = [], []
    for chrom, n in {"chr1": 12, "chr2": 4, "chr3": 4}.items():
        letters = np.array(list(eu.random_seqs(1, n * 8000, seed=gen)[0]))
        for at in np.arange(n) * 8000 + 4000:
            letters[at:at + 11] = list("GGTGACTCATC")
            lines.append(f"{chrom}\t{at - 100}\t{at + 100}\t.\t0\t.\t9.0\t-1\t-1\t100")
        seqs.append("".join(letters))
    with gzip.open(folder / "jund" / "ENCFF446WOD.bed.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    with gzip.open(folder / "jund" / "hg38.fa.gz", "wt") as file:
        file.writelines(f">{name}\n{seq}\n" for name, seq in zip(("chr1", "chr2", "chr3"), seqs))
    (folder / "jund" / "hg38-blacklist.v2.bed").write_text("chr1\t20000\t21000\tHigh Signal Region\n")
    motif = lambda name: eu.Motif(name, gen.dirichlet(np.ones(4) * .3, 11).T)
    eu.write_meme([motif("MA0491.1"), motif("MA0303.1")], folder / "motifs" / "JUND_GCN4_JASPAR.meme")
    eu.write_meme([motif(f"M{i}_HUMAN") for i in range(30)], folder / "motifs" / "HOCOMOCOv11_full_HUMAN.from_transfac.meme.gz")


@pytest.mark.slow
def test_full_runs_out_of_a_store_of_windows(tmp_path):
    small_hg38(tmp_path / "data")
    out = tmp_path / "out"
    done = run("--scale", "full", "--out", out, "-p", "seeds", 2, "-p", "epochs", 1, "-p", "device", "cpu", EUGENE_DATA=str(tmp_path / "data"), EUGENE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = metrics_of(out, "full")
    store, = out.glob("windows-*.zarr")
    ds = eu.open_zarr(store)
    assert ds.sizes["position"] == 500 and ds.sizes["sequence"] <= metrics["data"]["etl"]["hg38"]["bins, trimmed"]
    assert {tuple(row) for row in zip(ds["chrom"].values, ds["region_start"].values % 200)} <= {("chr1", 0), ("chr2", 0), ("chr3", 0)}
    assert set(metrics["models"]) >= {"dsFCN", "dsCNN", "dsHybrid", "Kopp21CNN", "Kopp21CNN-2023"}
    assert len(metrics["interpretation"]["pairs"]) == 10 and metrics["data"]["own_files"]


# ---------------------------------------------------------------- measured

@pytest.mark.slow
@needs_data
def test_sample_finds_jund_in_human_sequence(tmp_path):
    out = Path(os.environ.get("EUGENE_RUNS", tmp_path)) / "jund-sample"
    done = run("--scale", "sample", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = metrics_of(out, "sample")
    assert metrics["data"]["own_files"] == [] and metrics["data"]["etl"]["chrIV"]["bins, trimmed"] == 5130
    assert max(row["auroc"] for name in ("dsCNN", "Kopp21CNN") for row in metrics["models"][name] if row["target"] == "human") > .6


@pytest.mark.slow
@needs_data
def test_sample_takes_rows_of_ones_own(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    for part in ("jund", "motifs"):
        (data / part).mkdir(parents=True)
    for name in ("sacCer3_chrIV.fa.gz", "S288C_chrII_813178bp.fa.gz", "JunD_H1hesc_ENCFF002CIZ.hg19.narrowPeak.gz", *(f"NFE2_GM12878_lsgkm.{sign}.{part}.hg19.fa.gz" for sign in ("pos", "neg") for part in ("train", "test"))):
        shutil.copy(Path(DATA) / "jund" / name, data / "jund" / name)
    for name in ("JUND_GCN4_JASPAR.meme", "HOCOMOCOv11_full_HUMAN.from_transfac.meme.gz"):
        shutil.copy(Path(DATA) / "motifs" / name, data / "motifs" / name)
    peaks = eu.read_bed(Path(DATA) / "jund" / "Gcn4_peaks.sacCer3.bed")
    some = pd.concat([peaks[peaks["chrom"] == "chrIV"].iloc[::6], peaks[peaks["chrom"] == "chrII"].iloc[::6]])
    eu.write_bed(some, data / "jund" / "Gcn4_peaks.sacCer3.bed")
    name = "JunD_H1hesc_ENCFF002CIZ.hg19.200bp.fa.gz"
    with gzip.open(Path(DATA) / "jund" / name, "rt") as source, gzip.open(data / "jund" / name, "wt") as file:
        file.writelines(line for i, line in enumerate(source) if i // 2 % 8 == 0)
    done = run("--scale", "sample", "--out", out, "-p", "epochs", 1, "-p", "device", "cpu", EUGENE_DATA=str(data), EUGENE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = metrics_of(out, "sample")
    assert {Path(f).name for f in metrics["data"]["own_files"]} == {"Gcn4_peaks.sacCer3.bed", name}
    assert metrics["data"]["etl"]["chrIV"]["peaks"] == (some["chrom"] == "chrIV").sum()
