"""Experiments on models: laws, planted truth, an independent library, and what people do wrong"""
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from eugene.etl.motifs import read_meme
from eugene.etl.sequences import decode_ohe, gc_content, ohe, random_seqs, reverse_complement
from eugene.etl.shuffling import kmer_counts
from eugene.etl.simulation import Plant, simulate
from eugene.etl.seqdata import make_dataset
from eugene.interpretation.backgrounds import backgrounds
from eugene.interpretation.cooperativity import ORIENTATIONS, cooperativity, plot_cooperativity
from eugene.interpretation.edits import OCCLUSIONS, find_matches, mutate, occlude, region_mask, tile
from eugene.interpretation.experiments import ablate, dose_response, marginalize, occlusion_map, plot_dose, plot_effects, plot_occlusion, score_edits
from eugene.interpretation.in_silico import implant, percent_increase, positional_importance, sample_motif
from eugene.training.prediction import predict
from toy_models import LinearModel, ModeModel, MotifModel, PairModel, SumModel

X = ohe(random_seqs(24, 50, seed=1))
W = np.random.default_rng(0).normal(size=(2, 4, 50))

RUNS = {  # every experiment, small, with the scores that it gives
    "marginalize": lambda m, x, **kw: marginalize(m, x, {"one": "TATWA", "two": "CNNG"}, strand="both", **kw).scores,
    "occlusion_map": lambda m, x, **kw: occlusion_map(m, x, 7, 5, how="random", repeats=2, **kw).scores,
    "ablate": lambda m, x, **kw: ablate(m, x, [(3, 9), (20, 30)], repeats=3, **kw).scores,
    "dose_response": lambda m, x, **kw: dose_response(m, x, "TGASTCA", 3, 9, **kw).scores,
    "cooperativity": lambda m, x, **kw: cooperativity(m, x, "TATWA", "GCN", [-8, 6, 20], **kw).both,
    "score_edits": lambda m, x, **kw: score_edits(m, x, [lambda x: implant(x, "ACGT", 3), lambda x: x[:, :, ::-1]], **kw),
}


# ---------------------------------------------------------------- edits

@pytest.mark.parametrize("seed", range(5))
def test_an_implant_changes_its_window_only_and_an_occlusion_undoes_it(seed):
    gen = np.random.default_rng(seed)
    width = int(gen.integers(1, 20))
    word, start = random_seqs(1, width, seed=gen)[0], gen.integers(0, 51 - width, len(X))
    for strand in "+-":
        new = implant(X, word, start, strand)
        inside = (np.arange(50) >= start[:, None]) & (np.arange(50) < start[:, None] + width)
        assert (np.moveaxis(new, 1, 2)[~inside] == np.moveaxis(X, 1, 2)[~inside]).all()
        expected = word if strand == "+" else reverse_complement([word])[0]
        assert [s[p:p + width] for s, p in zip(decode_ohe(new), start)] == [expected] * len(X)
        table = [{"sequence": i, "start": p, "end": p + width} for i, p in enumerate(start)]
        assert (occlude(new, pd.DataFrame(table)) == occlude(X, pd.DataFrame(table))).all()


def test_a_turned_implant_is_the_implant_of_the_turned_sequence():
    for word in ("TGACC", "GNNAT"):
        turned = implant(reverse_complement(X), word, 50 - 7 - len(word))
        assert (reverse_complement(turned) == implant(X, word, 7, "-")).all()


def test_all_motifs_are_written_not_only_the_last():
    words, starts = ["GATTACA", "CCGG", "TTTT"], [30, 3, 10]
    new = decode_ohe(implant(X, words, starts))
    assert all(s[p:p + len(w)] == w for s in new for w, p in zip(words, starts))
    orders = [implant(X, [words[i] for i in o], [starts[i] for i in o]) for o in ([0, 1, 2], [2, 0, 1])]
    assert (orders[0] == orders[1]).all()


def test_drawn_sites_follow_the_motif(data_dir):
    "A TATA box of plants, by a chi-square test of every column against its probabilities"
    motif = {m.name: m for m in read_meme(data_dir / "motifs" / "CPEs.meme")}["TATA"]
    counts = sample_motif(motif, 5000, seed=0).sum(0)
    for c, p in zip(counts.T, motif.ppm.T):
        known = p > 1e-9
        assert not c[~known].any()
        if known.sum() > 1: assert stats.chisquare(c[known], 5000 * p[known] / p[known].sum()).pvalue > 1e-5


@pytest.mark.parametrize("how", OCCLUSIONS)
def test_occlusions_keep_what_they_promise(how):
    for seed in range(4):
        gen = np.random.default_rng(seed)
        a, b = np.sort(gen.choice(51, 2, replace=False))
        new = occlude(X, (a, b), how, seed)
        assert (new[:, :, :a] == X[:, :, :a]).all() and (new[:, :, b:] == X[:, :, b:]).all()
        part, was = new[:, :, a:b], X[:, :, a:b]
        if how == "zeros": assert not part.any()
        else: assert (part.sum(1) == 1).all()
        if how == "shuffle": assert (part.sum(2) == was.sum(2)).all()
        if how == "mutate": assert not (part * was).any()


def test_a_shuffle_of_several_regions_mixes_none_of_them():
    new = occlude(X, [(0, 10), (11, 30), (40, 50)], "shuffle", 3)
    for a, b in [(0, 10), (11, 30), (40, 50)]: assert (new[:, :, a:b].sum(2) == X[:, :, a:b].sum(2)).all()
    assert (new[:, :, [10, *range(30, 40)]] == X[:, :, [10, *range(30, 40)]]).all() and (new != X).any()


def test_matches_are_those_of_regular_expressions():
    import re
    codes = {"W": "[AT]", "N": ".", "R": "[AG]"}
    text = decode_ohe(X)
    for word in ("TAW", "GNRC", "ACG", "AWWT"):
        find = lambda s: [m.start() for m in re.finditer("(?=%s)" % "".join(codes.get(c, c) for c in word), s)]
        expected = {(i, p, "+") for i, s in enumerate(text) for p in find(s)}
        minus = {(i, 50 - len(word) - p, "-") for i, s in enumerate(reverse_complement(text)) for p in find(s)}
        if word == "AWWT": minus = set()  # reads the same on both strands
        found = find_matches(X, word)
        assert set(zip(found["sequence"], found["start"], found["strand"])) == expected | minus and len(found) == len(expected | minus)
        assert (found["end"] - found["start"] == len(word)).all()


# ---------------------------------------------------------------- backgrounds

def test_shuffled_backgrounds_keep_the_kmers_of_real_promoters(data_dir):
    import gzip
    with gzip.open(data_dir / "jores21" / "jores21_leaf_dev.tsv.gz", "rt") as f:
        column = f.readline().rstrip("\n").split("\t").index("sequence")
        seqs = [f.readline().rstrip("\n").split("\t")[column] for _ in range(40)]
    for k in (1, 2, 3):
        made = decode_ohe(backgrounds("shuffled", 40, seqs=seqs, k=k, seed=0))
        assert (kmer_counts(made, k) == kmer_counts(seqs, k)).all() and made != seqs


def test_backgrounds_take_every_kind_of_sequences():
    text = random_seqs(5, 30, seed=0)
    for seqs in (text, ohe(text), torch.tensor(ohe(text)), make_dataset(text)):
        assert (backgrounds("shuffled", 7, 20, seqs, seed=1) == backgrounds("shuffled", 7, 20, text, seed=1)).all()
    skewed = backgrounds("random", 500, 100, probs=[.1, .4, .4, .1], seed=0)
    assert abs(gc_content(skewed).mean() - .8) < .01


# ---------------------------------------------------------------- laws of the experiments

def test_in_a_linear_model_an_effect_is_the_difference_of_weights_and_nothing_interacts():
    model = LinearModel(W, bias=3.)
    found = marginalize(model, X, "GATTACA", 11, "both", target=None)
    for c, word in ((0, "GATTACA"), (1, "TGTAATC")):
        for t in range(2):
            expected = (ohe(word)[0] * W[t][:, 11:18]).sum() - (X * W[t])[:, :, 11:18].sum((1, 2))
            assert np.abs(found.effects[:, c, t] - expected).max() < 1e-4
    assert np.abs(cooperativity(model, X, "GATWACA", "CNNGT", [-20, -5, 7, 15], target=None).interaction).max() < 1e-4
    dose = dose_response(model, X, "GATTACA", 4, 9)
    assert np.abs(dose.effects - dose.additive).max() < 1e-4
    curve = positional_importance(model, X, "GATNACA")
    assert curve.shape == (24, 44) and np.abs(curve - np.stack([predict(model, implant(X, "GATNACA", p))[:, 0] for p in range(44)], 1)).max() < 1e-4


@pytest.mark.parametrize("orientation, word", [("++", "AT"), ("+-", "AA"), ("-+", "TT"), ("--", "TA")])
def test_a_pair_is_found_at_its_distance_and_orientation_only(orientation, word):
    "PairModel wants A at 5 and T at 9; its two letters are asked for by motifs which read so in one orientation"
    x = ohe(random_seqs(40, 30, probs=[0, .5, .5, 0], seed=0))
    motif = {"+": "A", "-": "T"}[orientation[0]], {"+": "T", "-": "A"}[orientation[1]]
    found = cooperativity(PairModel(), x, *motif, range(1, 12), start=5)
    hit = (found.what["distance"] == 4) & (found.what["orientation"] == orientation)
    assert hit.sum() == 1 and (found.interaction[:, hit] == 1).all() and not found.interaction[:, ~hit].any()
    table = found.table()
    assert (table["effect"][hit] == 1).all() and (table["low"][hit] == 1).all() and set(found.what["orientation"]) == set(ORIENTATIONS)


def test_effects_and_intervals_are_those_of_scipy():
    found = marginalize(LinearModel(W), X, "GATTACA", target=[1, 0])
    table = found.table(level=.9).query("implant == 'shuffled' and target == 1").iloc[0]
    effect = found.effects[:, 1, 0].astype(float)
    low, high = stats.t.interval(.9, len(X) - 1, effect.mean(), stats.sem(effect))
    assert np.allclose([table["effect"], table["low"], table["high"], table["n"]], [effect.mean(), low, high, 24])


def test_controls_write_what_the_motif_writes_and_are_not_the_motif():
    "By a model that counts G, and one that knows the word"
    background = ohe(["C" * 40] * 50)
    counts = marginalize(SumModel((2,)), background, "GANGG", 5)
    gain = dict(zip(counts.what["implant"], counts.effects.T))
    assert (gain["motif"] == 3).all() and (gain["shuffled"] == 3).all() and (gain["zeros"] == 0).all()
    assert 0 <= gain["random"].min() and gain["random"].max() <= 4 and gain["random"].std() > .3
    known = marginalize(MotifModel(ohe("GATTACA")[0]), background, "GATTACA", 5)
    for name, e in zip(known.what["implant"], known.effects.T):
        if name != "motif": assert (e < known.effects[:, 0]).all(), name


def test_percent_increase_of_the_published_numbers():
    assert round(percent_increase(np.full((310, 155), 3.177), np.full(310, 1.286))) == 147


@pytest.mark.parametrize("run", RUNS)
def test_batches_seeds_and_targets_change_nothing_else(run):
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 46, 3)).requires_grad_(False)
    whole = RUNS[run](model, X, target=None)
    assert whole.shape[0] == 24 and whole.shape[2] == 3
    for size in (1, 17, 10_000): assert np.abs(RUNS[run](model, X, target=None, batch_size=size) - whole).max() < 1e-5
    assert np.abs(RUNS[run](model, X, target=[2, 0]) - whole[..., [2, 0]]).max() < 1e-5
    assert np.abs(RUNS[run](model, torch.tensor(X), target=1) - whole[..., 1]).max() < 1e-5
    if run not in ("score_edits",): assert np.abs(RUNS[run](model, X, target=None, seed=5) - whole).max() > 1e-4


@pytest.mark.parametrize("run", RUNS)
def test_the_model_and_the_sequences_are_left_as_they_were(run):
    model, x = ModeModel().train(), X.copy()
    model.norm.eval()
    modes, state, random = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    before = np.random.get_state()[1].copy()
    RUNS[run](model, x)
    with pytest.raises(ValueError, match="predicts 1 column"): RUNS[run](model, x, target=1)
    assert [m.training for m in model.modules()] == modes and (x == X).all()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state()) and (before == np.random.get_state()[1]).all()


# ---------------------------------------------------------------- planted truth and other people's tools

def test_a_briefly_trained_network_shows_the_planted_effects():
    "Simulated promoters with an activator and a repressor: sign, order and rough size of the effects come back"
    plants = [Plant("TGACTCA", 2., name="up"), Plant("GGCGCC", -1.5, name="down")]
    sim = simulate(n=3000, length=50, plants=plants, noise=.2, seed=0)
    x, y = torch.tensor(ohe(sim.ds["seq"].values)).float(), torch.tensor(sim.ds["targets"].values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 16, 9, padding=4), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), .01)
        for _ in range(12):
            for rows in torch.randperm(3000).split(100):
                loss = nn.functional.mse_loss(model(x[rows]), y[rows])
                optimizer.zero_grad(); loss.backward(); optimizer.step()
    table = marginalize(model, backgrounds("random", 200, 50, probs=[.3, .2, .2, .3], seed=1), {"up": "TGACTCA", "down": "GGCGCC"}, seed=2).table().set_index(["motif", "implant"])
    assert table.loc[("up", "motif"), "low"] > 1.3 and table.loc[("up", "motif"), "high"] < 2.4
    assert table.loc[("down", "motif"), "high"] < -.8 and table.loc[("down", "motif"), "low"] > -2
    assert (table.drop("motif", level=1)["effect"].abs() < .4).all()
    hits = find_matches(ohe(sim.ds["seq"].values), "TGACTCA")
    rows = hits.drop_duplicates("sequence", keep=False)["sequence"].to_numpy()[:100]
    lost = ablate(model, ohe(sim.ds["seq"].values)[rows], find_matches(ohe(sim.ds["seq"].values)[rows], "TGACTCA"), repeats=3).table()
    assert -2.4 < lost["effect"][0] < -1.2


def test_tangermeme_says_the_same():
    pytest.importorskip("tangermeme", reason="tangermeme is not installed")
    from tangermeme.marginalize import marginalize as theirs
    from tangermeme.space import space
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 46, 2)).requires_grad_(False)
    x = torch.tensor(X).float()
    before, after = theirs(model, x, "GATNACA", start=20, device="cpu")
    found = marginalize(model, X, "GATNACA", 20, controls=False, target=None)
    assert np.abs(found.base - before.numpy()).max() < 1e-5 and np.abs(found.scores[:, 0] - after.numpy()).max() < 1e-5
    middle = theirs(model, x, "GATTACAG", device="cpu")[1]
    assert np.abs(marginalize(model, X, "GATTACAG", controls=False, target=None).scores[:, 0] - middle.numpy()).max() < 1e-5
    gaps = [0, 3, 11]
    _, pairs = space(model, x, ["GATTACA", "CCGT"], [[g] for g in gaps], start=8, device="cpu")
    found = cooperativity(model, X, "GATTACA", "CCGT", [7 + g for g in gaps], "++", start=8, target=None)
    assert np.abs(found.both - pairs.numpy()).max() < 1e-5


# ---------------------------------------------------------------- what people do wrong

class Profile(nn.Module):
    def forward(self, x): return x[:, :2]

class Pair(nn.Module):
    def forward(self, x): return x.sum((1, 2)), x

class Averaged(nn.Module):
    def forward(self, x): return x.mean((0, 1))[None]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("model, error, words", [
    (Pair(), TypeError, "returned a tuple of 2"), (Profile(), ValueError, "one number per sequence"), (Averaged(), ValueError, "average over the batch"),
    (lambda x: x, TypeError, "torch.nn.Module"), ([SumModel()], TypeError, "predict_ensemble")])
def test_models_that_do_not_fit(run, model, error, words):
    with pytest.raises(error, match=words): RUNS[run](model, X)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("change, error, words", [
    ({"x": X.transpose(0, 2, 1)}, ValueError, "Transpose"), ({"x": X[0]}, ValueError, r"\[None\]"), ({"x": ["ACGT" * 10]}, TypeError, "Encode text"),
    ({"x": X[:0]}, ValueError, "0 backgrounds"), ({"target": -1}, ValueError, "target=-1"), ({"target": [0, 7]}, ValueError, "target=7"), ({"batch_size": 0}, ValueError, "batch_size=0")])
def test_input_that_does_not_fit(run, change, error, words):
    with pytest.raises(error, match=words): RUNS[run](SumModel(), **{"x": X} | change)


@pytest.mark.parametrize("call, words", [
    (lambda: marginalize(SumModel(), X, "A" * 51), "51 bp wide"),
    (lambda: marginalize(SumModel(), X, ""), "writes no letter"),
    (lambda: marginalize(SumModel(), X, np.zeros((4, 0))), "0 bp wide"),
    (lambda: marginalize(SumModel(), X, "ACGT", 47), "cannot begin at 47"),
    (lambda: marginalize(SumModel(), X, "ACGT", np.full(24, -1)), "cannot begin at -1"),
    (lambda: positional_importance(SumModel(), X, "A" * 51), "51 bp wide"),
    (lambda: positional_importance(SumModel(), X, "AC", strand="both"), "Unknown `strand`"),
    (lambda: implant(X, ["AAAA", "CCCC"], [4, 7]), "must not overlap"),
    (lambda: implant(X, [], []), "0 motifs"),
    (lambda: implant(X, {"a": "A"}, 3), r"one-hot \(A, W\)"),
    (lambda: implant(X, None, 3), r"one-hot \(A, W\)"),
    (lambda: cooperativity(SumModel(), X, "AAAA", "CC", [3]), "overlap"),
    (lambda: cooperativity(SumModel(), X, "AAAA", "CC", range(4, 60)), "take 61 bp"),
    (lambda: cooperativity(SumModel(), X, "AAAA", "CC", []), "different whole numbers"),
    (lambda: dose_response(SumModel(), X, "AAAAAAAAAA", 6), "take 60 bp"),
    (lambda: tile(X, "AAAA", 2, 3), "must not overlap"),
    (lambda: occlusion_map(SumModel(), X, 51), "width=51"),
    (lambda: ablate(SumModel(), X, (40, 51)), "not inside"),
    (lambda: ablate(SumModel(), X, []), "expected"),
    (lambda: ablate(SumModel(), X, {}), "0 edits"),
    (lambda: occlude(X, (3, 9), "nothing"), "Unknown way to occlude"),
    (lambda: mutate(X, [1, 99], "AC"), "0 to 49"),
    (lambda: mutate(X, 1, "Z"), "'Z'"),
    (lambda: region_mask((5, 3), 2, 10), "is empty"),
    (lambda: backgrounds("shuffled", 5, 60, seqs=X), "cannot give backgrounds of 60 bp"),
    (lambda: plot_effects(marginalize(LinearModel(W), X, "ACGT", target=None)), "say which to show"),
])
def test_errors_say_what_to_do(call, words):
    with pytest.raises(ValueError, match=words): call()


def test_plots_show_the_numbers():
    import matplotlib.pyplot as plt
    model = LinearModel(W)
    pairs, dose, lost = cooperativity(model, X, "ACG", "GG", [5, 9, 7], "++"), dose_response(model, X, "ACG", 3), occlusion_map(model, X, 6, 4)
    ax = plot_occlusion(lost); assert np.allclose(ax.lines[0].get_ydata(), lost.effects.mean(0)) and ax.lines[0].get_xdata()[0] == 2.5
    ax = plot_dose(dose); assert np.allclose(ax.lines[0].get_ydata(), dose.effects.mean(0), atol=1e-5)
    ax = plot_cooperativity(pairs); assert list(ax.lines[0].get_xdata()) == [5, 7, 9]
    ax = plot_effects(marginalize(model, X[:1], "ACG")); assert len(ax.get_yticks()) == 4  # one background: no interval, and no error
    plt.close("all")
