"""Comparison with other people's programs, where one exists that computes the same thing

Each comparison is a function of its own and is skipped where the other program is not installed.
"""
import numpy as np
import pytest


def test_one_hot_agrees_with_tangermeme():
    utils = pytest.importorskip("tangermeme.utils")
    from eugene.etl.sequences import decode_ohe, ohe, random_seqs
    for s in [*random_seqs(5, 50, seed=0), "NNNN", "ACGTNNAC"]:
        theirs = utils.one_hot_encode(s).numpy()
        assert (ohe(s)[0] == theirs).all()
        assert decode_ohe(theirs) == [s] == [utils.characters(utils.one_hot_encode(s), allow_N=True)]


def test_reverse_complement_agrees_with_tangermeme():
    utils = pytest.importorskip("tangermeme.utils")
    import torch
    from eugene.etl.sequences import ohe, random_seqs, reverse_complement
    for s in random_seqs(5, 33, seed=0):
        assert reverse_complement(s) == utils.reverse_complement(s)
        x = torch.tensor(ohe(s))
        assert (reverse_complement(x)[0] == utils.reverse_complement(x[0])).all()


def test_dinucleotide_shuffle_keeps_what_tangermeme_keeps():
    ersatz = pytest.importorskip("tangermeme.ersatz")
    import torch
    from eugene.etl.sequences import ohe, random_seqs
    from eugene.etl.shuffling import k_shuffle, kmer_counts
    x = ohe(random_seqs(5, 60, seed=0))
    theirs = ersatz.dinucleotide_shuffle(torch.tensor(x), n=1, random_state=0)[:, 0].numpy()
    ours = k_shuffle(x, 2, seed=0)
    assert (kmer_counts(theirs, 2) == kmer_counts(ours, 2)).all()
    assert (theirs[..., [0, -1]] == ours[..., [0, -1]]).all() and (ours != x).any((1, 2)).all()


def test_kmer_counts_agree_with_a_vectorizer():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    from itertools import product
    from eugene.etl.sequences import random_seqs
    from eugene.etl.shuffling import kmer_counts
    seqs = random_seqs(20, 80, seed=0)
    for k in (1, 3):
        names = ["".join(m) for m in product("ACGT", repeat=k)]
        theirs = text.CountVectorizer(analyzer="char", ngram_range=(k, k), lowercase=False, vocabulary=names)
        assert np.array_equal(theirs.transform(seqs).toarray(), kmer_counts(seqs, k))
