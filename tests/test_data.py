"What the real files contain, and that the readers and splits keep their promises on them. Skips where the files are not."
import numpy as np
import pandas as pd
import pytest

from eugene.etl.datasets import CARDS, FILES, find_data, jores21, jores21_motifs
from eugene.etl.seqdata import get_split, open_zarr, to_zarr
from eugene.etl.tables import to_pandas
from eugene.etl.sequences import from_bytes, ohe, reverse_complement
from eugene.etl.splits import canonical, exclude_sequences, split_groups, split_random, split_summary
from eugene.etl.targets import fit_targets

# rows, targets' mean and sd, species, squared Pearson of the authors' predictions and how many rows have one
NATIVE = {"leaf": (5355, .905, 1.661, {"At": 1275, "Zm": 2255, "Sb": 1825}, .721, 5080),
          "proto": (5701, -.114, 1.245, {"At": 1258, "Zm": 2423, "Sb": 2020}, .679, 5463)}
SAMPLES = [name.split("/")[1] for name, card in CARDS.items() if name.startswith("jores21/") and "sample" in card.files]


@pytest.fixture(scope="module")
def native(data_dir):
    return {which: jores21(which, path=data_dir) for which in NATIVE}


@pytest.mark.parametrize("which", SAMPLES)
def test_every_card_opens(which, data_dir):
    "Content, rows and length are checked by the reader itself; the rest is what the card promises"
    ds, card = jores21(which, path=data_dir), CARDS[f"jores21/{which}"]
    assert ds.sizes["sequence"] == sum(FILES[f].rows for f in card.files["sample"]) and ds.sizes["position"] == 170
    assert (ohe(ds.seq.values).sum(1) == 1).all()
    assert tuple(ds.target.values if "target" in ds else ()) == card.targets
    assert len(set(ds.id.values)) == ds.sizes["sequence"]
    assert ds.attrs["sha256"] == [FILES[f].sha256 for f in card.files["sample"]]


@pytest.mark.parametrize("which", NATIVE)
def test_native_promoters(which, native):
    ds, (rows, mean, sd, species, r2, predicted) = native[which], NATIVE[which]
    assert ds.seq.shape == (rows, 170) and set(np.unique(ds.seq)) == set(b"ACGT")
    y = ds.targets.values[:, 0].astype(float)
    assert np.isfinite(y).all() and round(y.mean(), 3) == mean and round(y.std(), 3) == sd
    assert dict(zip(*np.unique(ds.sp.values.astype(str), return_counts=True))) == species
    known = ~np.isnan(ds.cnn_prediction.values)
    assert known.sum() == predicted
    assert round(np.corrcoef(y[known], ds.cnn_prediction.values[known])[0, 1] ** 2, 3) == r2
    assert ds.id.values.tolist() == ds.gene.values.tolist() and len(set(canonical(ds.seq.values))) == rows


def test_reader_agrees_with_pandas(native, data_dir):
    for which, ds in native.items():
        raw = pd.read_csv(data_dir / f"jores21/jores21_{which}_dev.tsv.gz", sep="\t", keep_default_na=False, na_values={"cnn_prediction": ["NA"]})
        ours = to_pandas(ds)
        for column in ("sequence", "gene", "sp", "set"): assert (ours[column].values == raw[column].values).all()
        assert (ours["enrichment"].values == raw["enrichment"].values.astype(np.float32)).all()
        assert np.array_equal(ours["cnn_prediction"].values, raw["cnn_prediction"].values, equal_nan=True)


def test_zarr_round_trip(native, tmp_path):
    to_zarr(native["leaf"], tmp_path / "leaf.zarr")
    assert open_zarr(tmp_path / "leaf.zarr").identical(native["leaf"])


def test_shared_promoters_share_a_side(native):
    leaf, proto = (to_pandas(split_random(ds)).set_index("sequence")["split"] for ds in native.values())
    both = leaf.index.intersection(proto.index)
    assert len(both) == 536 and (leaf[both] == proto[both]).all()
    assert set(leaf[both]) == {"train", "val", "test"}
    for ds in native.values():
        table = split_summary(split_random(ds))
        assert table["shared"].sum() == 0
        for side, p in {"train": .7, "val": .1, "test": .2}.items():
            n = ds.sizes["sequence"]
            assert abs(table.loc[side, "rows"] - n * p) < 4 * np.sqrt(n * p * (1 - p))


def test_other_strand_same_side(native):
    leaf = native["leaf"]
    turned = leaf.assign(seq=(("sequence", "position"), reverse_complement(leaf.seq.values)))
    assert (split_random(turned).split.values == split_random(leaf).split.values).all()


def test_evolution_starts_are_not_learned_from(native, data_dir):
    starts, told = jores21("evolution", path=data_dir), {"leaf": 9, "proto": 11}
    for which, ds in native.items():
        assert len(exclude_sequences(ds, starts).ids) == told[which]
        split = split_random(ds)
        rest, gone = exclude_sequences(split, starts)
        learned = {s for side in ("train", "val") for s in from_bytes(get_split(rest, side).seq.values)}
        assert not learned & set(from_bytes(starts.seq.values))
        assert rest.sizes["sequence"] == ds.sizes["sequence"] - len(gone)
        assert get_split(rest, "test").id.equals(get_split(split, "test").id)


def test_designed_promoters_split_by_group(data_dir):
    for which, groups in {"synthetic": 15, "evolved": 219}.items():
        ds = jores21(which, path=data_dir)
        names = sorted(set(ds.promoter.values))
        assert len(names) == groups
        split = split_groups(ds, "promoter", val=names[:2], test=names[2:5])
        assert set(get_split(split, "test").promoter.values) == set(names[2:5]) and split_summary(split)["shared"].sum() == 0


def test_targets_are_fitted_on_training_rows(native):
    split = split_random(native["leaf"])
    t = fit_targets(split)
    y = get_split(split, "train").targets.values[:, 0].astype(float)
    learned = t.steps[0].fitted[0]
    assert np.isclose(learned["mean"], y.mean()) and np.isclose(learned["sd"], y.std())
    assert np.allclose(t.inverse(t.apply(split).targets.values), split.targets.values, atol=1e-5)


def test_motifs(data_dir):
    motifs = jores21_motifs(data_dir)
    assert len(motifs) == 78 and motifs[0].ppm.shape == (4, 16)
    assert [m.ppm.shape[1] for m in motifs[:6]] == [16, 10, 8, 7, 8, 6]
    assert (min(m.ppm.shape[1] for m in motifs[6:]), max(m.ppm.shape[1] for m in motifs[6:])) == (4, 30)
    assert all(np.allclose(m.ppm.sum(0), 1) for m in motifs)


@pytest.mark.parametrize("relative", [f.path for f in FILES.values() if f.sha256])
def test_files_are_the_ones_described(relative, data_dir):
    assert find_data(relative, path=data_dir) == data_dir / relative


def test_a_folder_without_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EUGENE_DATA", str(tmp_path))
    monkeypatch.setenv("EUGENE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="jores21_leaf_dev.tsv.gz in EUGENE_DATA .* Set EUGENE_DATA"): jores21("leaf")
    assert not any(tmp_path.iterdir())
