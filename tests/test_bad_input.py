"""Each thing that is wrong with what a user brings is said in the user's terms, and leaves nothing half-written behind."""
import gzip

import numpy as np
import pytest
import yaml

import eugene as eu
from eugene.etl.datasets import find_data

GOOD = "gene\tsequence\tenrichment\nAT1\tACGTACGTAC\t1.5\nAT2\tTTTTACGTAC\t-0.5\nAT3\tGGGTACGTAC\t0.25\n"
ARGS = dict(seq_col="sequence", target_cols=["enrichment"], id_col="gene")

TABLES = {
    "missing column": (GOOD.replace("enrichment", "strength"), {}, ["enrichment", "strength", "gene"]),
    "empty file": ("", {}, ["empty"]),
    "only a header": (GOOD.splitlines()[0] + "\n", {}, ["no rows"]),
    "unequal lengths": (GOOD.replace("TTTTACGTAC", "TTTT"), {}, ["row 2", "length"]),
    "unknown letter": (GOOD.replace("TTTT", "TTRT"), {"unknown": "error"}, ["row 2", "'R'"]),
    "hole in a target": (GOOD.replace("-0.5", ""), {}, ["row 2", "enrichment", "missing"]),
    "target is no number": (GOOD.replace("-0.5", "low"), {}, ["row 2", "enrichment", "low"]),
    "duplicate id": (GOOD.replace("AT3", "AT1"), {}, ["AT1", "row 3"]),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_a_table_that_cannot_be_read_is_described(tmp_path, name, suffix):
    text, extra, words = TABLES[name]
    path = tmp_path / f"promoters{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    with pytest.raises(ValueError) as error:
        eu.read_table(path, **ARGS, **extra)
    for word in [path.name, *words]:
        assert word.lower() in str(error.value).lower(), f"{word!r} is not in: {error.value}"


def test_the_good_table_is_read(tmp_path):
    (tmp_path / "promoters.tsv").write_text(GOOD)
    ds = eu.read_table(tmp_path / "promoters.tsv", **ARGS)
    assert ds["targets"].values.tolist() == [[1.5], [-0.5], [0.25]] and list(ds["id"].values) == ["AT1", "AT2", "AT3"]


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="promoters.tsv"):
        eu.read_table(tmp_path / "promoters.tsv", **ARGS)


def test_a_store_that_fails_leaves_nothing(tmp_path):
    ds = eu.make_dataset(["ACGT", "TTTT"])
    ds["what"] = "sequence", np.array([object(), object()], dtype=object)
    with pytest.raises(Exception):
        eu.to_zarr(ds, tmp_path / "store.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_motif_longer_than_the_filter_is_named():
    model = eu.build_arch("CNN", input_len=50, conv={"channels": [4], "kernels": [5]}, dense={})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    motif = eu.Motif("TATA", np.full((4, 8), .25))
    with pytest.raises(ValueError, match="TATA.*8.*5") as error:
        eu.init_from_motifs(model, [motif])
    assert "crop" in str(error.value)
    assert all((before[k] == v).all() for k, v in model.state_dict().items()), "a refused motif changed the model"


def test_a_config_with_an_unknown_key_is_refused(tmp_path):
    config = {"arch": {"name": "CNN", "input_len": 170}, "module": {"task": "regression"}, "fit": {"epoch": 5}}
    path = tmp_path / "cnn.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError) as error:
        eu.from_config(path)
    for word in ("cnn.yaml", "fit", "'epoch'", "epochs"):
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_a_data_folder_without_the_file_says_where_it_comes_from(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        find_data("jores21/jores21_leaf_dev.tsv.gz", path=tmp_path)
    assert str(tmp_path) in str(error.value) and "jores21_leaf_dev.tsv.gz" in str(error.value)
    with pytest.raises(FileNotFoundError):
        eu.datasets.jores21("leaf", path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_transposed_batch_is_recognised():
    model = eu.build_arch("CNN", input_len=170)
    with pytest.raises(ValueError, match="Transpose it"):
        eu.predict(model, np.zeros((2, 170, 4), np.float32))
