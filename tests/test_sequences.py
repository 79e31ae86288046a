"Laws of the sequence chapters, held against inputs that nobody would think of"
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eugene.etl.sequences import (DNA, RNA, SIDES, decode_ohe, from_bytes, gc_content, ohe, pad_seqs, random_seqs,
                                  reverse_complement, to_bytes)
from eugene.etl.shuffling import k_shuffle, kmer_counts

IUPAC = "ACGTRYSWKMBDHVN"
messy = st.text(IUPAC + IUPAC.lower() + "-Xu", max_size=40)
dna, rna = st.text("ACGT", max_size=40), st.text("ACGU", max_size=40)


def law(*args):
    "Hold a test against 60 inputs, the same ones in every run"
    return lambda f: settings(deadline=None, derandomize=True, database=None, max_examples=60)(given(*args)(f))


def batches(letters, max_rows=6):
    "Lists of sequences of one length, the empty list and empty sequences included"
    return st.integers(0, 12).flatmap(lambda n: st.lists(st.text(letters, min_size=n, max_size=n), max_size=max_rows))


def words(s, k): return Counter(s[i:i+k] for i in range(len(s) - k + 1))


@law(batches("ACGTN"))
def test_decoding_undoes_encoding(seqs):
    assert decode_ohe(ohe(seqs)) == seqs
    assert from_bytes(to_bytes(seqs)) == seqs


@law(batches("ACGUN"))
def test_rna_is_dna_with_another_letter(seqs):
    assert decode_ohe(ohe(seqs, RNA), "RNA") == seqs
    assert (ohe(seqs, RNA) == ohe([s.replace("U", "T") for s in seqs], DNA)).all()


@law(batches(IUPAC + IUPAC.lower() + "-X"))
def test_one_hot_against_plain_python(seqs):
    x = ohe(seqs, dtype=np.float32)
    assert x.shape == (len(seqs), 4, len(seqs[0]) if seqs else 0) and x.dtype == np.float32
    for n, s in enumerate(seqs):
        assert x[n].tolist() == [[float(c.upper() == base) for c in s] for base in "ACGT"]
    assert (ohe([s.upper() for s in seqs]) == x).all() and (ohe(to_bytes(seqs)) == x).all()


@law(batches(IUPAC + IUPAC.lower() + "-X"))
def test_policies_for_unknown_letters(seqs):
    spread, known = ohe(seqs, unknown="uniform"), [set(s.upper()) <= set("ACGT") for s in seqs]
    assert np.allclose(spread.sum(1), 1) and (spread[ohe(seqs) == 1] == 1).all()
    assert (ohe(seqs, unknown="skip") == ohe(to_bytes(seqs)[np.array(known, bool)])).all()
    if all(known): assert (ohe(seqs, unknown="error") == ohe(seqs)).all()
    else:
        with pytest.raises(ValueError, match=f"Row {known.index(False)}, position"): ohe(seqs, unknown="error")


@law(st.lists(st.text(IUPAC + IUPAC.lower() + "-X", max_size=30), max_size=6))
def test_reverse_complement_twice_is_identity(seqs):
    once = reverse_complement(seqs)
    assert reverse_complement(once) == seqs
    assert [len(s) for s in once] == [len(s) for s in seqs]
    assert [s.isupper() for s in once] == [s.isupper() for s in seqs]
    assert [reverse_complement(s) for s in seqs] == once


@law(rna)
def test_reverse_complement_of_rna(s):
    assert reverse_complement(s, "RNA") == s[::-1].translate(str.maketrans("ACGU", "UGCA"))


@law(batches(IUPAC + "acgtn-"), st.sampled_from(["zero", "uniform"]))
def test_strand_and_encoding_commute(seqs, unknown):
    x = ohe(seqs, unknown=unknown)
    assert (ohe(reverse_complement(seqs), unknown=unknown) == x[:, ::-1, ::-1]).all()
    assert (reverse_complement(x) == x[:, ::-1, ::-1]).all()
    assert (reverse_complement(to_bytes(seqs)) == to_bytes(reverse_complement(seqs))).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_reverse_complement_of_arrays_and_tensors(dtype):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((3, 4, 7)).__gt__(.5).astype(dtype)
    for a in (x, x[:, :, ::2], np.asfortranarray(x), x[:0], x[0]): # views and odd memory orders too
        flipped = reverse_complement(a)
        assert flipped.dtype == a.dtype and flipped.flags.c_contiguous and (flipped == a[..., ::-1, ::-1]).all()
        assert (reverse_complement(torch.tensor(a)).numpy() == flipped).all()
    before = x.copy(); reverse_complement(x)[:] = 0
    assert (x == before).all() # a new object


@law(st.lists(messy, max_size=6), st.integers(0, 50), st.sampled_from(SIDES), st.sampled_from(SIDES))
def test_padding_and_cutting(seqs, length, side, truncate):
    out = pad_seqs(seqs, length, side, truncate, value="-")
    for s, p in zip(seqs, out, strict=True):
        extra = abs(length - len(s))
        left = {"left": extra, "right": 0, "both": extra // 2}[side if len(s) <= length else truncate]
        assert p == ("-" * left + s + "-" * (extra - left) if len(s) <= length else s[left:left + length])
    assert pad_seqs(out, length, side, truncate) == out


@law(st.lists(messy, min_size=1, max_size=6))
def test_padding_to_the_longest(seqs):
    assert {len(s) for s in pad_seqs(seqs)} == {max(map(len, seqs))}
    gc = gc_content(seqs)
    assert np.array_equal(gc_content(pad_seqs(seqs)), gc, equal_nan=True)
    assert np.array_equal(gc_content(reverse_complement(seqs)), gc, equal_nan=True)
    for s, g in zip(seqs, gc):
        known = [c for c in s.upper() if c in "ACGTU"]
        assert np.isnan(g) if not known else g == sum(c in "CG" for c in known) / len(known)


@law(st.lists(messy, max_size=5), st.integers(1, 5), st.integers(0, 2**32))
def test_shuffles_keep_kmers_and_ends(seqs, k, seed):
    new = k_shuffle(seqs, k, seed)
    for a, b in zip((s.upper() for s in seqs), (s.upper() for s in new), strict=True):
        assert words(a, k) == words(b, k) and words(a, 1) == words(b, 1)
        assert a[:k-1] == b[:k-1] and a[len(a) - min(k - 1, len(a)):] == b[len(b) - min(k - 1, len(b)):]
    assert (kmer_counts(seqs, k) == kmer_counts(new, k)).all()
    assert sorted("".join(seqs)) == sorted("".join(new)) # not even the case of a letter is lost


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("n, length", [(1030, 200), (7, 200), (2, 66_000)]) # more rows than are worked on at once, fewer, and longer ones than 16 bits count
def test_shuffles_of_many_rows_and_long_ones(n, length, k):
    x = to_bytes(random_seqs(n, length, seed=0))
    new = k_shuffle(x, k, seed=0)
    assert (kmer_counts(new, k) == kmer_counts(x, k)).all() and (new != x).any(1).all()
    assert (new[:, :k-1] == x[:, :k-1]).all() and (new[:, 1-k:] == x[:, 1-k:]).all()
    same = k_shuffle(np.tile(x[:1], (n, 1)), k, seed=0)
    assert len(np.unique(same, axis=0)) == n # each row is drawn for itself


def test_padding_of_many_strings_and_mixed_ones():
    seqs = random_seqs(600, 12, seed=0)
    seqs = [s[:i % 13] for i, s in enumerate(seqs)]
    assert pad_seqs(seqs, side="left") == [s.rjust(12, "N") for s in seqs]
    assert pad_seqs(["AC", b"G", np.str_("TTT")]) == ["ACN", "GNN", "TTT"]
    with pytest.raises(TypeError, match="row 301 is None"): pad_seqs(seqs[:301] + [None])


@law(batches("ACGTN"), st.integers(1, 4), st.sampled_from(["zero", "uniform"]))
def test_shuffles_of_one_hot_keep_columns(seqs, k, unknown):
    x = ohe(seqs, unknown=unknown)
    new = k_shuffle(x, k, seed=0)
    assert new.dtype == x.dtype and new.shape == x.shape
    for a, b in zip(decode_ohe(x), decode_ohe(new)): assert words(a, k) == words(b, k)


@law(st.lists(st.text("ACGTNacgu-", max_size=30), max_size=5), st.integers(1, 4))
def test_kmer_counts_against_a_counter(seqs, k):
    for s, row in zip(seqs, kmer_counts(seqs, k), strict=True):
        by_hand = words(s.upper().replace("U", "T"), k)
        assert row.sum() == sum(n for w, n in by_hand.items() if set(w) <= set("ACGT"))
        for w, n in by_hand.items():
            if set(w) <= set("ACGT"): assert row[int("".join(str("ACGT".index(c)) for c in w), 4)] == n


@law(st.integers(0, 4), st.integers(0, 20), st.integers(0, 2**32))
def test_random_sequences(n, length, seed):
    seqs = random_seqs(n, length, seed=seed)
    assert seqs == random_seqs(n, length, seed=seed) and [len(s) for s in seqs] == [length] * n
    assert set("".join(seqs)) <= set("ACGT")


def test_tables_of_pandas_come_in():
    pd = pytest.importorskip("pandas")
    column = pd.Series(["ACGT", "TTAA"], index=[7, 9])
    assert reverse_complement(column).tolist() == ["ACGT", "TTAA"]
    assert (ohe(column) == ohe(["ACGT", "TTAA"])).all()
    with pytest.raises(TypeError, match="row 1 is"): ohe(pd.Series(["ACGT", None]))


def test_bytes_from_files_come_in():
    fixed = np.array([[b"A", b"C"], [b"G", b"T"]])
    assert (to_bytes(fixed) == to_bytes(["AC", "GT"])).all() and reverse_complement(fixed).tolist() == [[b"G", b"T"], [b"A", b"C"]]
    none = to_bytes(["ACGT"])[:0]
    assert to_bytes(none).shape == reverse_complement(none).shape == k_shuffle(none).shape == (0, 4) and ohe(none).shape == (0, 4, 4)
    frozen = to_bytes(["ACGT", "GGTA"]); frozen.flags.writeable = False
    assert from_bytes(reverse_complement(frozen)) == ["ACGT", "TACC"] and k_shuffle(frozen, seed=0).shape == (2, 4)
    assert (ohe(frozen[:, ::2]) == ohe(["AG", "GT"])).all()
