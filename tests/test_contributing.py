"""CONTRIBUTING.md tells the truth: readers, a layer, a model and a metric are added to a copy of the book in four steps each."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from book_rules import RULES, load_book

ROOT = Path(__file__).resolve().parents[1]

READER = '''#| export
def read_lines(
    path:str|os.PathLike, # Text file, a sequence a line
) -> xr.Dataset:          # Dataset
    "Read sequences, one a line. Raises `ValueError` for an empty file."
    seqs = Path(path).read_text().split()
    if not seqs: raise ValueError(f"{Path(path).name} has no sequences.")
    return make_dataset(seqs)'''
LAYER = '''#| export
class GatedConv1d(nn.Module):
    "A convolution that another one opens and closes"
    def __init__(
        self,
        in_channels:int,  # Channels in
        out_channels:int, # Channels out
        kernel:int,       # Width, positions
    ):
        super().__init__()
        self.signal, self.gate = (nn.Conv1d(in_channels, out_channels, kernel) for _ in range(2))
        self.kernel = kernel

    def output_len(
        self,
        length:int, # Positions before
    ) -> int:       # Positions after
        "Exact length of the output"
        return conv_output_len(length, self.kernel)

    def forward(
        self,
        x:torch.Tensor, # `(N, C, L)`
    ) -> torch.Tensor:  # `(N, out_channels, output_len(L))`
        "Signal times gate"
        return self.signal(x) * self.gate(x).sigmoid()'''
GENOMIC = '''#| export
class PositionReader:
    "The position itself, of contigs of known lengths"
    def __init__(
        self,
        lengths:dict[str, int],  # Contig to length, bp
        name:str="place",        # Name of the variable
    ):
        self.lengths, self.name = lengths, name

    def contigs(self) -> dict[str, int]: # Contig to length, bp
        "The contigs and their lengths"
        return dict(self.lengths)

    def layout(
        self,
        width:int, # Positions of a window, bp
    ) -> Layout:   # Axes, sizes, type, coordinates, attributes
        "What `read` returns"
        return Layout(("sequence", f"track_{self.name}", "position"), (1, width), "float32", {f"track_{self.name}": [self.name]}, {"kind": "tracks"})

    def read(
        self,
        windows:Windows, # What to read
    ) -> np.ndarray:     # `(N, 1, width)`, each row in the direction of its strand
        "Positions, 0-based"
        at = windows.start[:, None] + np.arange(windows.width)
        return np.where(windows.minus[:, None], at[:, ::-1], at)[:, None].astype("float32")'''
MODEL = '''#| export
class Counter26(nn.Module):
    "Weighs the share of each letter. A teaching example."
    def __init__(
        self,
        input_len:int=170, # Positions of the input
        output_dim:int=1,  # Predictions per sequence
    ):
        super().__init__()
        self.input_len, self.weigh = input_len, nn.Linear(4, output_dim)

    def forward(
        self,
        x:torch.Tensor, # One-hot sequences, `(N, 4, L)`
    ) -> torch.Tensor:  # `(N, T)`
        "Scores"
        return self.weigh(x.mean(2))'''
CARD = '''#| export
COUNTER26_CARD = ArchCard(
    name="Counter26", citation="nobody, 2026", source="tests", table=(("mean over positions", "4"), ("dense", "1")),
    input_len=170, outputs="1 number", n_params=5, training={"optimizer": "adam"}, deviations=("none",), confidence="made up")'''
METRIC = '''#| export
def bias(
    y_true:np.ndarray, # Measurements, `(N, T)`; `NaN` where missing
    y_pred:np.ndarray, # Predictions, `(N, T)`
) -> np.ndarray:       # Float64 `(T,)`, in units of the measurement
    "Mean difference of prediction and measurement"
    return per_target(lambda y, p: np.mean(p - y), y_true, y_pred)'''

# notebook: what is added before a cell that begins so (None: at the end), and what is replaced in a cell
STEPS = {
    "nbs/01_etl/08_tables.ipynb": ([(None, READER), (None, "(folder := Path(tempfile.mkdtemp())); (folder/'a.txt').write_text('ACGT\\nTTTT\\n'); test_eq(read_lines(folder/'a.txt').sizes['sequence'], 2)")], []),
    "nbs/01_etl/10_tracks.ipynb": ([(None, GENOMIC)], []),
    "nbs/02_layers/02_convolutions.ipynb": ([(None, "#| export\nfrom eugene.layers.basics import conv_output_len"), (None, LAYER), (None, "assert GatedConv1d(4, 2, 3)(torch.zeros(1, 4, 9)).shape[2] == GatedConv1d(4, 2, 3).output_len(9)")], []),
    "nbs/03_models/03_activity.ipynb": ([(None, MODEL), (None, CARD), (None, "check_arch(Counter26(30, 2), 30, 2); assert count_params(Counter26()) == COUNTER26_CARD.n_params")], []),
    "nbs/03_models/07_zoo.ipynb": ([], [("from eugene.models.activity import ", "from eugene.models.activity import COUNTER26_CARD, Counter26, "), ('    "RNN": {"published"', '    "Counter26": {"published": Architecture(Counter26, COUNTER26_CARD)},\n    "RNN": {"published"')]),
    "nbs/04_training/02_metrics.ipynb": ([("#| export\nMETRICS", METRIC)], [("\nMETRICS = dict(", "\nMETRICS = dict(bias=bias, "), ('numbers, counts = ("r2", ', 'numbers, counts = ("bias", "r2", ')]),
    "nbs/04_training/01_losses.ipynb": ([], [('("r2", "pearson", "spearman", "mse")', '("r2", "pearson", "spearman", "mse", "bias")')]),
    "nbs/99_face.ipynb": ([], [("read_table join_table", "read_table read_lines join_table"), ('"BigWig BAM"', '"BigWig BAM PositionReader"'), ("BiConv1D RCConv1d", "BiConv1D GatedConv1d RCConv1d"), ('"Jores21CNN DeepSTARR"', '"Jores21CNN DeepSTARR Counter26"'), ("spearman kendall", "spearman bias kendall")]),
}
USE = """
import eugene as eu, numpy as np, pathlib
pathlib.Path("a.txt").write_text("ACGT" * 10 + "\\n" + "TTTTT" * 8 + "\\n")
ds = eu.read_lines("a.txt")
model = eu.build_arch("Counter26", input_len=40)
ds["targets"] = ("sequence", "target"), np.ones((2, 1), "float32")
table = eu.evaluate(model, ds, split=None, min_rows=1)
assert abs(table["bias"].item() - (eu.predict(model, ds).mean() - 1)) < 1e-6 and "Counter26" in eu.list_archs()
import pandas as pd
regions = pd.DataFrame({"chrom": "chr1", "start": [2, 50], "end": [12, 60], "strand": ["+", "-"]})
places = eu.read_regions(regions, eu.PositionReader({"chr1": 100}), length=10)["place"].values[:, 0]
assert places[0].tolist() == list(range(2, 12)) and places[1].tolist() == list(range(59, 49, -1))
assert eu.GatedConv1d(4, 2, 3).output_len(9) == 7
"""


def cell(source, n):
    return {"cell_type": "code", "execution_count": None, "id": f"added-{n}", "metadata": {}, "outputs": [], "source": source.splitlines(keepends=True)}


def change(path, added, replaced):
    nb = json.loads(path.read_text(encoding="utf-8"))
    for n, (before, source) in enumerate(added):
        place = len(nb["cells"]) if before is None else next(i for i, c in enumerate(nb["cells"]) if "".join(c["source"]).startswith(before))
        nb["cells"].insert(place, cell(source, n))
    for old, new in replaced:
        hits = [c for c in nb["cells"] if c["cell_type"] == "code" and old in "".join(c["source"])]
        assert len(hits) == 1, f"{old!r} is in {len(hits)} cells of {path.name}"
        hits[0]["source"] = "".join(hits[0]["source"]).replace(old, new).splitlines(keepends=True)
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The book with five additions, exported"
    root = tmp_path_factory.mktemp("book")
    for name in ("settings.ini", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "nbs", root / "nbs", ignore=shutil.ignore_patterns(".*"))
    for path, (added, replaced) in STEPS.items():
        change(root / path, added, replaced)
    code = "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
    return root


def test_what_was_added_is_used_like_everything_else(copy):
    done = subprocess.run([sys.executable, "-c", USE], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_and_the_book_keeps_its_rules(copy):
    slow = {"find_out_of_sync", "find_machine_paths", "find_banned_words", "find_invalid_notebooks"}
    here, there = load_book(ROOT), load_book(copy)
    assert [line for rule in RULES if rule.__name__ not in slow for line in {*rule(there)} - {*rule(here)}] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in STEPS if "00_" not in path])
def test_and_its_chapters_run(copy, path):
    done = subprocess.run([Path(sys.executable).parent / "nbdev_test", "--path", path, "--n_workers", "0"], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_contributing_names_every_place_that_was_changed():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [path for path in STEPS if path not in text] == []
