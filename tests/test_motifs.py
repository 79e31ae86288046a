"Motifs: the real MEME files, an independent reader, and laws on random motifs"
import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.etl.motif_matching import match_motifs, motif_similarity
from eugene.etl.motifs import (Motif, consensus, consensus_ohe, information_content, motif_from_consensus, pfm_to_ppm, ppm_to_icm, ppm_to_pwm,
                               read_meme, write_meme)
from eugene.etl.sequences import reverse_complement
from eugene.etl.simulation import Plant, default_plants, find_sites, simulate, site_mask

FILES = {"CPEs.meme": 6, "TF-clusters.meme": 72, "Ray2013_rbp_Homo_sapiens.meme": 102, "JUND_GCN4_JASPAR.meme": 4,
         "HOCOMOCOv11_full_HUMAN.from_transfac.meme.gz": 771, "JASPAR2022_CORE_vertebrates_non-redundant_v2.meme.gz": 841}


@pytest.fixture(params=FILES)
def meme(request, data_dir):
    path = data_dir/"motifs"/request.param
    if not path.exists(): pytest.skip(f"no motifs/{request.param} in the data folder")
    return path


def test_real_file(meme):
    motifs = read_meme(meme)
    assert len(motifs) == FILES[meme.name]
    assert len({m.name for m in motifs}) == len(motifs) and all(m.alt for m in motifs)
    for m in motifs:
        assert m.alphabet.letters == ("ACGU" if meme.name.startswith("Ray") else "ACGT")
        assert m.ppm.shape[0] == 4 and m.nsites > 0
        np.testing.assert_allclose(m.ppm.sum(axis=0), 1, atol=1e-9)


def test_real_file_against_memelite(meme, tmp_path):
    memelite = pytest.importorskip("memelite.io")
    if meme.suffix == ".gz":
        (tmp_path/"plain.meme").write_bytes(gzip.decompress(meme.read_bytes()))
    theirs = memelite.read_meme(str(tmp_path/"plain.meme" if meme.suffix == ".gz" else meme))
    ours = {f"{m.name} {m.alt}": m for m in read_meme(meme)}
    assert list(ours) == list(theirs)
    for name, ppm in theirs.items():
        np.testing.assert_allclose(ours[name].ppm, ppm / ppm.sum(axis=0), atol=1e-12)
        np.testing.assert_allclose(ours[name].ppm, ppm, atol=1e-3)   # the printed numbers are rounded


def test_real_file_round_trip(meme, tmp_path):
    motifs = read_meme(meme)
    for m, back in zip(motifs, read_meme(write_meme(motifs, tmp_path/"again.meme.gz")), strict=True):
        assert (m.name, m.alt, m.nsites, m.alphabet) == (back.name, back.alt, back.nsites, back.alphabet)
        assert np.array_equal(m.ppm, back.ppm)


def test_known_motifs_of_the_real_files(data_dir):
    cpes = read_meme(data_dir/"motifs"/"CPEs.meme")
    assert [(m.alt, m.ppm.shape[1]) for m in cpes] == [("TATA", 16), ("Inr", 10), ("BREu", 8), ("BREd", 7), ("Ypatch", 8), ("TCT", 6)]
    assert "TATAAATA" in consensus(cpes[0]) and consensus(read_meme(data_dir/"motifs"/"TF-clusters.meme")[21]) == "GGGACCAC"
    jund = read_meme(data_dir/"motifs"/"JUND_GCN4_JASPAR.meme")
    assert [m.alt[:4] for m in jund] == ["JUND", "JUND", "JUND", "GCN4"] and "TGACTCA" in consensus(jund[0])
    hits = match_motifs(jund, read_meme(data_dir/"motifs"/"JASPAR2022_CORE_vertebrates_non-redundant_v2.meme.gz"))
    assert hits.set_index("query").loc["MA0491.2", ["motif", "offset", "strand"]].tolist() == ["MA0491.2", 0, "+"]


def test_every_motif_matches_itself(meme):
    motifs = read_meme(meme)[::7]
    hits = match_motifs(motifs, motifs)
    flat = np.array([information_content(m).sum() < 1e-6 for m in motifs])
    assert not flat.any()
    assert np.allclose(hits["pearson"], 1) and (hits["query"] == hits["motif"]).mean() > .95   # some files repeat a matrix under two names
    assert (hits["offset"] == 0).all()


# ---------------------------------------------------------------- laws

@st.composite
def ppms(draw, least=1, most=12):
    width, seed, alpha = draw(st.integers(least, most)), draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([.05, .5, 5.]))
    return np.random.default_rng(seed).dirichlet(np.full(4, alpha), width).T


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=12)


@quick
@given(tables=st.lists(ppms(), min_size=1, max_size=4), name=words, alt=st.lists(words, max_size=3), nsites=st.none() | st.integers(0, 10**12) | st.floats(0, 1e9),
       alphabet=st.sampled_from(["DNA", "RNA"]), suffix=st.sampled_from([".meme", ".meme.gz"]))
def test_write_then_read(tmp_path, tables, name, alt, nsites, alphabet, suffix):
    motifs = [Motif(f"{name}{i}", p, nsites, alphabet, " ".join(alt)) for i, p in enumerate(tables)]
    for m, back in zip(motifs, read_meme(write_meme(motifs, tmp_path/f"any{suffix}", overwrite=True)), strict=True):
        assert (m.name, m.alt, m.nsites, m.alphabet) == (back.name, back.alt, back.nsites, back.alphabet)
        assert np.array_equal(m.ppm, back.ppm)


@quick
@given(ppm=ppms(), pseudocount=st.floats(0.001, 10))
def test_odds_and_information(ppm, pseudocount):
    pwm, ic = ppm_to_pwm(ppm, pseudocount=pseudocount), information_content(ppm)
    assert np.isfinite(pwm).all() and (ic > -1e-12).all() and (ic < 2 + 1e-12).all()
    np.testing.assert_allclose(.25 * 2 ** pwm * (1 + pseudocount), ppm + pseudocount / 4)   # back to probabilities
    np.testing.assert_allclose(ppm_to_icm(ppm).sum(axis=0), ic, atol=1e-12)
    np.testing.assert_allclose(information_content(reverse_complement(ppm)), ic[::-1])
    assert consensus(reverse_complement(ppm)) == reverse_complement(consensus(ppm))
    assert (consensus_ohe(ppm).sum(axis=0) == 1).all()


def test_information_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    ppm, background = np.random.default_rng(0).dirichlet(np.ones(4), 50).T, np.array([.35, .15, .2, .3])
    np.testing.assert_allclose(information_content(ppm, background), stats.entropy(ppm, background[:, None], base=2))


@quick
@given(a=ppms(5), b=ppms(5))
def test_similarity_is_symmetric(a, b):
    r, offset, strand = motif_similarity(a, b)
    back = motif_similarity(b, a)
    assert -1 <= r <= 1 and abs(r - back.pearson) < 1e-9
    np.testing.assert_allclose(motif_similarity(reverse_complement(a), reverse_complement(b)).pearson, r, atol=1e-9)


@quick
@given(m=ppms(5), left=st.integers(0, 4), right=st.integers(0, 4), turned=st.booleans())
def test_shifted_copies_are_found(m, left, right, turned):
    copy = np.hstack([np.full((4, left), .25), m, np.full((4, right), .25)])
    r, offset, strand = motif_similarity(reverse_complement(copy) if turned else copy, m)
    assert abs(r - 1) < 1e-9
    palindrome = abs(motif_similarity(m, reverse_complement(m), strands="+").pearson - 1) < 1e-6
    if not palindrome: assert (offset, strand) == ((right, "-") if turned else (left, "+"))


@pytest.mark.parametrize("width", [1, 3, 7])
def test_similarity_against_numpy(width):
    "The best of all offsets and strands, each computed by np.corrcoef on tables padded with uniform columns"
    g = np.random.default_rng(width)
    a, b = g.dirichlet(np.ones(4), 9).T, g.dirichlet(np.ones(4), width).T
    best = -2
    for other in (b, b[::-1, ::-1]):
        for offset in range(1 - width, 9):
            if min(9, offset + width) - max(0, offset) < min(5, width): continue
            table = np.full((2, 4, 40), .25)
            table[0, :, 15:24], table[1, :, 15 + offset:15 + offset + width] = a, other
            used = slice(15 + min(0, offset), 15 + max(9, offset + width))
            best = max(best, np.corrcoef(table[0, :, used].ravel(), table[1, :, used].ravel())[0, 1])
    np.testing.assert_allclose(motif_similarity(a, b).pearson, best, atol=1e-9)


def test_no_seqlets_no_pattern():
    "A filter that never fired has no counts; it matches nothing and breaks nothing"
    hits = match_motifs(np.zeros((2, 4, 8)), [motif_from_consensus("TATAAA")])
    assert (hits["pearson"] == 0).all() and np.allclose(pfm_to_ppm(np.zeros((4, 8))), .25)


# ---------------------------------------------------------------- simulation

@quick
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), length=st.integers(80, 200), gc=st.floats(.2, .8))
def test_simulated_truth_is_exact(seed, n, length, gc):
    sim = simulate(n, length, gc=gc, seed=seed)
    found = find_sites(sim.ds["seq"].values, sim.plants).drop_duplicates(["sequence", "start", "motif"], ignore_index=True)
    key = ["sequence", "motif", "start", "end"]
    assert found[key].astype({"motif": str}).values.tolist() == sim.sites[key].astype({"motif": str}).values.tolist()
    signal = sim.sites.groupby("sequence")["effect"].sum().reindex(range(n), fill_value=0)
    assert np.array_equal(sim.ds["signal"].values[:, 0], signal.to_numpy(dtype=np.float32))
    assert site_mask(sim.sites, n, length).sum() == (sim.sites["end"] - sim.sites["start"]).sum()   # sites never overlap


def test_simulated_motifs_from_a_file(data_dir):
    "Matrices of a real file can be planted; the sites drawn from them are found again by comparison"
    tata = read_meme(data_dir/"motifs"/"CPEs.meme")[0]
    sim = simulate(400, plants=[Plant(tata, 2, prob=1, strand="+")], seed=0)
    counts = np.zeros((4, 16))
    for site in sim.sites.itertuples():
        word = sim.ds["seq"].values[site.sequence, site.start:site.end].tobytes().decode()
        counts += np.array(list(word)) == np.array(list("ACGT"))[:, None]
    hit = motif_similarity(counts, tata)
    assert hit.pearson > .95 and hit[1:] == (0, "+")


def test_simulation_keeps_its_promises():
    assert [p.name for p in default_plants()] == ["TATA", "TCP", "GCC-box"]
    ceilings = [simulate(4000, noise=noise, seed=3).ceiling for noise in (0, .25, .5, 1, 2)]
    assert ceilings[0] == 1 and np.all(np.diff(ceilings) < 0)
    np.testing.assert_allclose(ceilings[1:], [1.5 / (1.5 + s ** 2) for s in (.25, .5, 1, 2)], atol=.03)
    calls = [simulate(4000, task="classification", noise=noise, seed=3).ceiling for noise in (0, .5, 2)]
    assert calls[0] == 1 and np.all(np.diff(calls) < 0) and calls[2] > .5
