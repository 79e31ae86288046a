"""Seqlets and patterns against planted sites, against tangermeme, and against modisco-lite's own readers and runs"""
import logging

import numpy as np
import pandas as pd
import pytest

from eugene.core import rng
from eugene.etl.motif_matching import match_motifs
from eugene.etl.motifs import Motif, read_meme
from eugene.etl.sequences import ohe, random_seqs
from eugene.etl.simulation import Plant, simulate, site_mask
from eugene.interpretation.attributions import Attribution
from eugene.interpretation.filters import count_seqlets
from eugene.interpretation.modisco import (ModiscoResult, Pattern, base_contributions, call_seqlets, check_tracks, hypothetical_contributions, modisco,
                                           pattern_from_seqlets, pattern_table, plot_patterns, read_modisco, trim_pattern, write_modisco)
from eugene.interpretation.mutagenesis import base_importance, ism
from toy_models import LinearModel

PLANTS = [Plant("TGASTCA", 1., prob=.6, name="AP-1"), Plant("GGGGCGGG", -1., prob=.5, name="GC-box")]


def planted(n=200, length=80, noise=.15, seed=0, spread=0.):
    "Simulated sequences, simulated hypothetical contributions, and the planted sites; `spread`: sd of the log strength of sites"
    sim, gen = simulate(n, length, PLANTS, seed=seed), rng(seed + 1)
    x = ohe(sim.ds["seq"].values)
    h = noise * gen.normal(size=x.shape)
    for s in sim.sites.itertuples():
        plant = next(p for p in PLANTS if p.name == s.motif)
        w = gen.lognormal(0, spread) * plant.effect * (plant.motif.ppm - .25) / .75
        h[s.sequence, :, s.start:s.end] += w if s.strand == "+" else w[::-1, ::-1]
    return x, h.astype(np.float32), sim.sites


def share_found(seqlets, sites, n, length):
    "Share of the sites at least half covered by a seqlet of their sign, and share of the seqlets that touch a site"
    sign = np.zeros((n, length))
    for s in seqlets.itertuples(): sign[s.sequence, s.start:s.end] = np.sign(s.attribution)
    mask = site_mask(sites, n, length)
    found = [(sign[s.sequence, s.start:s.end] == np.sign(s.effect)).mean() >= .5 for s in sites.itertuples()]
    return np.mean(found), np.mean([mask[s.sequence, s.start:s.end].any() for s in seqlets.itertuples()])


# ---------------------------------------------------------------- seqlets

def test_planted_sites_are_found_in_strong_noise():
    "Against a shuffle, in sequences long enough for sites to be few; against noise of the same kind also in short ones"
    x, h, sites = planted(length=200, noise=.4, spread=.3)
    found, true = share_found(call_seqlets(h, x), sites, 200, 200)
    assert found > .8 and true > .9
    x, h, sites = planted(noise=.4, spread=.3)
    found, true = share_found(call_seqlets(h, x, control=base_contributions(.4 * rng(9).normal(size=x.shape), x)), sites, 200, 80)
    assert found > .9 and true > .9


def test_windows_rank_sites_first():
    "AUROC of the sums of windows that begin at a site against all that touch none"
    from sklearn.metrics import roc_auc_score
    x, h, sites = planted(noise=.6, spread=.3)
    sums = abs(np.lib.stride_tricks.sliding_window_view(base_contributions(h, x), 8, axis=1).sum(-1))
    touched = np.lib.stride_tricks.sliding_window_view(site_mask(sites, *x.shape[::2]), 8, axis=1).any(-1)
    start = np.zeros_like(touched)
    inside = sites[sites["start"] < start.shape[1]]
    start[inside["sequence"], inside["start"]] = True
    assert roc_auc_score(start[start | ~touched], sums[start | ~touched]) > .95


def test_noise_alone_gives_seqlets_no_more_often_than_the_rate():
    "Under the null the chance of any discovery is the false discovery rate: 60 data sets at .1, 6 expected, 14 has p < .002"
    x, any_found = ohe(random_seqs(30, 60, seed=1)), 0
    for seed in range(60): any_found += len(call_seqlets(rng(seed).standard_t(4, size=x.shape), x, fdr=.1, n_null=60_000, seed=seed)) > 0
    assert any_found < 14


def test_smooth_noise_needs_a_control():
    "Noise that is alike at neighbouring positions passes against a shuffle, and not against noise of its kind"
    x = ohe(random_seqs(200, 80, seed=1))
    def smooth(seed): return np.apply_along_axis(lambda v: np.convolve(v, np.ones(8), "same"), 2, rng(seed).normal(size=(200, 1, 80))) * np.ones((1, 4, 1))
    assert len(call_seqlets(smooth(1), x)) > 100
    assert len(call_seqlets(smooth(1), x, control=base_contributions(smooth(2), x))) < 5


def test_padding_stays_out_of_seqlets_and_of_the_null():
    x, h, sites = planted()
    padded, wide = np.zeros((200, 4, 240), np.uint8), np.zeros((200, 4, 240), np.float32)
    padded[:, :, 80:160], wide[:, :, 80:160] = x, h
    a, b = call_seqlets(h, x), call_seqlets(wide, padded)
    assert (b["start"] >= 80 - 8).all() and abs(len(a) - len(b)) < .05 * len(a)
    assert set(zip(a["sequence"], a["start"])) & set(zip(b["sequence"], b["start"] - 80))
    wide[:, :, 80:160] = rng(5).normal(size=h.shape)  # noise beside padding stays noise
    assert len(call_seqlets(wide, padded, n_null=100_000)) < 3


def test_seqlets_do_not_overlap_and_are_the_strongest():
    x, h, _ = planted()
    seqlets = call_seqlets(h, x)
    gap = seqlets["start"].diff()[seqlets["sequence"].diff() == 0]
    assert (gap >= 8).all() and (seqlets["q"] <= .05).all()
    c = base_contributions(h, x)
    np.testing.assert_allclose(seqlets["attribution"], [c[s.sequence, s.start:s.end].sum() for s in seqlets.itertuples()])
    pd.testing.assert_frame_equal(seqlets, call_seqlets(h, x))


def test_no_seqlet_is_said(caplog):
    x = ohe(random_seqs(20, 40, seed=1))
    with caplog.at_level(logging.WARNING, "eugene"): table = call_seqlets(rng(0).normal(size=x.shape), x, n_null=50_000)
    assert len(table) == 0 and list(table) == ["sequence", "start", "end", "strand", "attribution", "p", "q"]
    assert "No seqlet" in caplog.text and "smallest q" in caplog.text


@pytest.mark.slow  # compiles for half a minute the first time
def test_as_many_sites_as_tangermeme():
    "Positive seqlets beside the recursive ones of tangermeme, on the same simulated attributions"
    seqlet = pytest.importorskip("tangermeme.seqlet")
    torch = pytest.importorskip("torch")
    x, h, sites = planted(length=200, noise=.3, spread=.3)
    theirs = seqlet.recursive_seqlets(torch.tensor(base_contributions(h, x), dtype=torch.float32), threshold=.01)
    theirs = pd.DataFrame({"sequence": theirs["example_idx"], "start": theirs["start"], "end": theirs["end"], "attribution": theirs["attribution"]})
    up, ours = sites[sites["effect"] > 0], call_seqlets(h, x)
    mine, other = (share_found(t, up, 200, 200)[0] for t in (ours[ours["attribution"] > 0], theirs))
    assert other > .7 and mine >= other - .05


# ---------------------------------------------------------------- hypothetical contributions

def test_ism_gives_hypothetical_contributions_of_a_linear_model():
    w = rng(0).normal(size=(4, 12))
    x = ohe(random_seqs(5, 12, seed=1))
    h = hypothetical_contributions(ism(LinearModel(w), x, device="cpu"))
    np.testing.assert_allclose(h, np.tile(w - w.mean(0), (5, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(h * x, .75 * base_importance(ism(LinearModel(w), x, device="cpu"), x), atol=1e-5)


# ---------------------------------------------------------------- patterns

def known_pattern(name="AP-1", data=None, flank=5):
    x, h, sites = planted() if data is None else data
    t, more = sites[sites["motif"] == name], np.array([flank, flank + 3])  # three more after the site than before it, on its strand
    minus = (t["strand"] == "-").to_numpy().astype(int)
    t = t.assign(start=t["start"] - more[minus], end=t["end"] + more[1 - minus])
    return pattern_from_seqlets(t[(t["start"] >= 0) & (t["end"] <= x.shape[2])], h, x, name), x, h


def test_a_pattern_counts_as_filters_do():
    p, x, _ = known_pattern()
    counts = count_seqlets(p.seqlets.assign(filter=0), x, p.cwm.shape[1], 1)[0]
    np.testing.assert_allclose(p.pfm, counts, atol=1e-9)


@pytest.mark.parametrize("by", ["contribution", "information"])
@pytest.mark.parametrize("flank", [0, 2])
def test_trimmed_places_give_the_trimmed_pattern(by, flank):
    p, x, h = known_pattern("GC-box")
    t = trim_pattern(p, by=by, flank=flank)
    assert t.cwm.shape[1] == 8 + 2 * flank and set(t.seqlets["strand"]) == {"+", "-"}
    again = pattern_from_seqlets(t.seqlets, h, x)
    for a, b in ((t.motif.ppm, again.motif.ppm), (t.cwm, again.cwm), (t.hypothetical, again.hypothetical)): np.testing.assert_allclose(a, b, atol=1e-6)


def test_unknown_bases_in_places():
    x = ohe(["ACGTN", "ACGNN"])
    p = pattern_from_seqlets(pd.DataFrame({"sequence": [0, 1], "start": 0, "end": 5, "strand": "+"}), np.ones(x.shape), x)
    np.testing.assert_allclose(p.motif.ppm[:, 3:], [[0, .25], [0, .25], [0, .25], [1, .25]])


# ---------------------------------------------------------------- the file

def result_of_two():
    data = planted()
    return ModiscoResult([known_pattern(n, data)[0] for n in ("AP-1", "GC-box")], "a note")


def test_file_round_trip(tmp_path):
    result = result_of_two()
    back = read_modisco(write_modisco(result, tmp_path / "a.h5"))
    assert back.note == "a note" and len(back.patterns) == 2
    for a, b in zip(result.patterns, back.patterns):
        assert a.motif.name == b.motif.name and a.motif.nsites == b.motif.nsites
        for k in ("cwm", "hypothetical", "pfm"): np.testing.assert_allclose(getattr(a, k), getattr(b, k))
        pd.testing.assert_frame_equal(a.seqlets, b.seqlets, check_dtype=False)


def by_hand(path, n=12, name="pattern_0", **skip):
    "A file as modisco-lite lays it out, written without our code"
    import h5py
    with h5py.File(path, "w") as f:
        f.attrs["window_size"] = 400
        for k in range(n):
            g = f.create_group(f"pos_patterns/pattern_{k}")
            g["sequence"], g["contrib_scores"], g["hypothetical_contribs"] = np.tile([.7, .1, .1, .1], (6, 1)), np.full((6, 4), k + 1.), np.full((6, 4), .5)
            for key, v in dict(n_seqlets=[2], start=[3, 9], end=[9, 15], example_idx=[k, 0], is_revcomp=[False, True]).items(): g[f"seqlets/{key}"] = np.array(v)
            if skip: del g[skip["without"]]


def test_a_file_written_by_hand(tmp_path):
    by_hand(tmp_path / "a.h5")
    r = read_modisco(tmp_path / "a.h5")
    assert [p.motif.name for p in r.patterns] == [f"pos_{k}" for k in range(12)]  # by number, not by letters: 10 comes after 9
    p = r.patterns[10]
    assert p.cwm.shape == (4, 6) and (p.cwm == 11).all() and p.motif.nsites == 2
    np.testing.assert_allclose(p.motif.ppm[:, 0], [.7, .1, .1, .1])
    assert p.seqlets.values.tolist() == [[10, 3, 9, "+"], [0, 9, 15, "-"]]


def test_modisco_lite_reads_our_file(tmp_path):
    "Its MEME file of our patterns holds the same probabilities"
    lite = pytest.importorskip("modiscolite")
    result = result_of_two()
    write_modisco(result, tmp_path / "a.h5")
    lite.io.write_meme_from_h5(tmp_path / "a.h5", lite.util.MemeDataType.PFM, tmp_path / "a.meme", True)
    back = read_meme(tmp_path / "a.meme")
    assert len(back) == 2
    for a, b in zip(result.patterns, back): np.testing.assert_allclose(a.motif.ppm, b.ppm, atol=1e-4)


def test_bad_files(tmp_path):
    import h5py
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(ValueError, match="no HDF5 file"): read_modisco(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as f: f["images"] = [1]
    with pytest.raises(ValueError, match="it holds images"): read_modisco(tmp_path / "other.h5")
    with h5py.File(tmp_path / "old.h5", "w") as f: f.create_group("metacluster_idx_to_submetacluster_results")
    with pytest.raises(ValueError, match="modisco convert"): read_modisco(tmp_path / "old.h5")
    by_hand(tmp_path / "half.h5", 1, without="contrib_scores")
    with pytest.raises(ValueError, match="contrib_scores"): read_modisco(tmp_path / "half.h5")
    with pytest.raises(FileNotFoundError): read_modisco(tmp_path / "none.h5")
    with pytest.raises(FileExistsError): write_modisco(ModiscoResult([]), tmp_path / "old.h5")
    assert read_modisco(write_modisco(ModiscoResult([], "nothing"), tmp_path / "old.h5", overwrite=True)) == ModiscoResult([], "nothing")


# ---------------------------------------------------------------- bad input

X = ohe(random_seqs(6, 60, seed=1))
H = rng(0).normal(size=X.shape)

BAD = {
    "shapes": ((H[:, :, :50], X), "of the same sequences"),
    "transposed": ((H.transpose(0, 2, 1), X.transpose(0, 2, 1)), "Transpose it"),
    "NaN": ((np.where(np.arange(60) == 4, np.nan, H), X), "NaN or infinite"),
    "zero": ((0 * H, X), "All contributions are zero"),
    "swapped": ((X.astype(float), H), "not one-hot"),
    "empty": ((H[:0], X[:0]), "no sequence"),
    "text": ((H.astype(str), X), "expected numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tracks(case):
    args, words = BAD[case]
    for f in (check_tracks, call_seqlets, modisco):
        with pytest.raises(ValueError, match=words): f(*args)


def test_sequences_without_room():
    with pytest.raises(ValueError, match="width=61.*60 bp"): call_seqlets(H, X, width=61)
    for n, kw in ((40, {}), (49, {}), (60, {"width": 50}), (60, {"trim_to_window_size": 50})):
        with pytest.raises(ValueError, match="would find nothing"): modisco(H[:, :, :n], X[:, :, :n], **kw)
    with pytest.raises(ValueError, match="masks every window"): modisco(H, X, flank=0)


def test_out_exists_before_anything_runs(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"): modisco(H, X, out=tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"


def test_attribution_tuple_and_tensor():
    import torch
    np.testing.assert_array_equal(check_tracks(Attribution(H), X)[0], H)
    np.testing.assert_array_equal(check_tracks(torch.tensor(H), torch.tensor(X))[0], H)


def test_table_and_plot_of_nothing():
    assert len(pattern_table(ModiscoResult([], ""))) == 0
    with pytest.raises(ValueError, match="no pattern to draw"): plot_patterns([])


def test_table_names_and_matches():
    result = result_of_two()
    table = pattern_table(result, [Motif("other", ohe("ATATATAT")[0]), *(p.motif for p in PLANTS)])
    assert list(table["match"]) == ["AP-1", "GC-box"] and (table["pearson"] > .95).all() and list(table["width"]) == [7, 8]
    turned = [Pattern(Motif(p.motif.name, p.motif.ppm[::-1, ::-1], p.motif.nsites), p.cwm[::-1, ::-1], p.hypothetical[::-1, ::-1], p.seqlets) for p in result.patterns]
    assert list(pattern_table(turned, [PLANTS[1].motif])["strand"])[1] == "-"


# ---------------------------------------------------------------- modisco-lite itself

def test_too_few_seqlets_are_said(caplog, tmp_path):
    "Nothing is found, the note says why, and the file can be read"
    pytest.importorskip("modiscolite")
    x, h, _ = planted(60)
    with caplog.at_level(logging.WARNING, "eugene"): r = modisco(h * x, x, out=tmp_path / "a.h5")
    assert r.patterns == [] and "no more than min_seqlets=100" in r.note and "positive" in r.note and "negative" in r.note
    assert r.note in caplog.text and "not hypothetical" in caplog.text
    assert read_modisco(tmp_path / "a.h5") == r
    with pytest.raises(ValueError, match="one sign"): modisco(abs(h), x)


@pytest.mark.slow
def test_planted_motifs_are_recovered(tmp_path):
    "End to end on simulated attributions: both motifs, right signs, places that are sites; the same again; global randomness untouched"
    pytest.importorskip("modiscolite")
    x, h, sites = planted(400, 120, seed=1)
    np.random.seed(5); state = np.random.get_state()[1].copy()
    how = dict(min_seqlets=50, width=15, flank=5, trim_to_window_size=15, initial_flank_to_add=5, n_leiden_runs=5)
    r = modisco(h, x, out=tmp_path / "a.h5", **how)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    trimmed = [trim_pattern(p) for p in r.patterns]
    found = match_motifs([p.motif for p in trimmed], [p.motif for p in PLANTS])
    assert set(found["motif"][found["pearson"] > .8]) == {"AP-1", "GC-box"}
    for p, name in zip(trimmed, found["motif"]):
        assert np.sign(p.cwm.sum()) == (1 if name == "AP-1" else -1)
        mask = site_mask(sites, 400, 120, name)
        assert np.mean([mask[s.sequence, s.start:s.end].mean() > .8 for s in p.seqlets.itertuples()]) > .95
    for p in r.patterns:
        again = pattern_from_seqlets(p.seqlets, h, x)
        np.testing.assert_allclose(again.motif.ppm, p.motif.ppm, atol=1e-5)
        np.testing.assert_allclose(again.cwm, p.cwm, atol=1e-4)
    second = modisco(h, x, **how)
    assert second.note == r.note and all((a.seqlets.values == b.seqlets.values).all() for a, b in zip(r.patterns, second.patterns))
    assert [p.motif.name for p in read_modisco(tmp_path / "a.h5").patterns] == [p.motif.name for p in r.patterns]
