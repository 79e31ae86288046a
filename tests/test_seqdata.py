"Round trips of tables, Datasets and stores on drawn input, with Python's own csv writer as the other side; laws of the split."
import csv
import gzip

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
from eugene.etl.tables import from_pandas, read_table, to_pandas
from eugene.etl.sequences import reverse_complement
from eugene.etl.splits import canonical, hash_unit

SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
letters = st.text("ACGTNacgtRYn", min_size=1, max_size=12)
words = st.sampled_from(["NA", "nan", "", "None", "a,b", 'say "x"', "two\tfields", "é", " padded "])
number = st.floats(-1e6, 1e6, width=32)
rows = st.lists(st.tuples(letters, number, words, st.integers(-5, 5), st.booleans()), min_size=1, max_size=8)


@SOME
@given(rows, st.sampled_from([(".csv", ","), (".tsv", "\t")]), st.booleans())
def test_a_table_comes_back_as_it_was_written(tmp_path, table, kind, packed):
    (ending, sep), opener = kind, gzip.open if packed else open
    path = tmp_path / f"t{ending}{'.gz' if packed else ''}"
    with opener(path, "wt", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, delimiter=sep)
        writer.writerow(["name", "dna", "y", "note", "count", "flag"])
        for i, (s, y, note, count, flag) in enumerate(table): writer.writerow([f"r{i}", s, repr(y), "x" + note, count, flag])
    ds = read_table(path, seq_col="dna", target_cols="y", id_col="name", length="pad")
    seqs, y, notes, counts, flags = zip(*table)
    back = to_pandas(ds)
    assert back["sequence"].tolist() == list(seqs) and back["id"].tolist() == [f"r{i}" for i in range(len(table))]
    assert np.array_equal(ds.targets.values[:, 0], np.array(y, np.float32))
    assert back["note"].tolist() == ["x" + n for n in notes]
    assert ds["count"].dtype.kind == "i" and ds["count"].values.tolist() == list(counts)
    assert ds["flag"].dtype.kind == "b" and ds["flag"].values.tolist() == list(flags)


@SOME
@given(rows, st.sampled_from(["left", "right", "both"]), st.integers(12, 15))
def test_zarr_and_pandas_change_nothing(tmp_path, table, side, length):
    seqs, y, notes, counts, flags = map(list, zip(*table))
    ds = make_dataset(seqs, y, columns={"note": notes, "count": counts, "flag": flags}, target_names=["y"], length=length, side=side)
    back = open_zarr(to_zarr(ds, tmp_path / "t.zarr", overwrite=True))
    assert back.identical(ds) and {k: v.dtype for k, v in back.variables.items()} == {k: v.dtype for k, v in ds.variables.items()}
    assert from_pandas(to_pandas(back), target_cols="y", length=length, side=side).identical(ds)


@SOME
@given(st.lists(letters, min_size=1, max_size=20), st.integers(0, 5), st.sampled_from(["left", "right", "both"]))
def test_a_sequence_keeps_its_side(seqs, seed, side):
    "Written on the other strand, in small letters, padded or as RNA, it has the same number and so the same side"
    u = hash_unit(seqs, seed)
    padded = make_dataset(seqs, length=14, side=side).seq.values
    for other in (reverse_complement(seqs), [s.lower() for s in seqs], [s.replace("T", "U") for s in seqs], padded):
        assert (hash_unit(other, seed) == u).all() and canonical(other) == canonical(seqs)
    assert (hash_unit(seqs[::-1], seed) == u[::-1]).all()
