"""Studies: what a notebook that retells a paper leaves behind, also when it is stopped or falls short."""
import json

import numpy as np
import pytest
import torch

from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import random_seqs
from eugene.training.configs import from_config
from eugene.training.studies import Study, as_json, paper_table, read_published

CONFIG = {"arch": {"name": "FCN", "input_len": 20, "dense": {"hidden": 4}}, "fit": {"epochs": 9, "batch_size": 16, "patience": None, "transforms": ["RandomRC"]}}
SCALES = {"smoke": {"note": "random letters", "seeds": 2, "epochs": 4}}


@pytest.fixture
def ds():
    ds = make_dataset(random_seqs(120, 20, seed=0), targets=np.random.default_rng(0).normal(size=(120, 1)))
    ds["split"] = "sequence", np.repeat(["train", "val", "test"], [80, 20, 20])
    return ds


def study(folder, **kw):
    return Study("toy", "smoke", SCALES, folder / "out", device="cpu", configs=folder / "configs", **kw)


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_a_stopped_run_goes_on_to_the_result_it_would_have_had(tmp_path, ds, monkeypatch):
    whole = study(tmp_path / "a").train("run", CONFIG, ds, 0, progress=False)
    first = study(tmp_path / "b", epochs=2)
    first.train("run", CONFIG, ds, 0, progress=False)
    second = study(tmp_path / "b")
    left = second.estimate([{"name": "run", "module": CONFIG, "ds": ds}])[0]
    assert left["finished"][0] == 1  # of two seeds, one is there, if only for two epochs
    went_on = second.train("run", CONFIG, ds, 0, progress=False)
    assert went_on.manifest["epochs"] == 4 and same(went_on.module, whole.module)


def test_without_reuse_a_run_is_made_anew(tmp_path, ds):
    study(tmp_path).train("run", CONFIG, ds, 0, progress=False)
    before = (tmp_path / "out/runs/run-seed0/manifest.json").read_text()
    fresh = study(tmp_path, reuse=False)
    assert fresh.estimate([{"name": "run", "module": CONFIG, "ds": ds}])[0]["finished"][0] == 0
    fresh.train("run", CONFIG, ds, 0, progress=False)
    assert (tmp_path / "out/runs/run-seed0/manifest.json").read_text() != before


def test_an_estimate_measures_each_kind_of_job(tmp_path, ds):
    table, total = study(tmp_path).estimate([{"name": "config", "module": CONFIG, "ds": ds}, {"name": "made", "module": lambda seed: from_config(CONFIG, seed=seed), "ds": ds, "epochs": 1, "batch_size": 40},
                                             {"name": "there", "module": from_config(CONFIG), "ds": ds}])
    assert (table["minutes"] > 0).all() and list(table["epochs"]) == [4, 1, 4] and table["parameters"].nunique() == 1
    assert total.startswith("6 of 6 runs are left to train") and not (tmp_path / "out/runs").exists()


def test_the_record_of_a_study_that_falls_short_is_kept(tmp_path, ds):
    one = study(tmp_path, seeds=1)
    one.train("run", CONFIG, ds, 0, progress=False)
    one.table([{"number": "r2", "ours": np.float32(.5), "run": "run"}])
    one.check("holds", True), one.check("fails", np.bool_(False))
    with pytest.raises(AssertionError, match="1 of 2 checks failed: fails"):
        one.write({"rows": np.int64(3)}, {"FCN": [{"r2": np.nan}]}, {})
    kept = json.loads((tmp_path / "out/metrics.json").read_text())
    assert kept["checks"] == {"holds": True, "fails": False} and kept["models"]["FCN"] == [{"r2": None}] and kept["data"] == {"rows": 3}
    assert kept["table"][0]["rows"] == 80 and kept["table"][0]["epochs"] == 4 and kept["seeds"] == [0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["figures", "metrics.json", "runs"]


def test_a_number_without_its_source_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("tata: {value: {leaf: 147}}")
    with pytest.raises(ValueError, match="'tata' of p.yaml has no `source`"):
        read_published(tmp_path / "p.yaml")
    with pytest.raises(ValueError, match="no `source`"):
        paper_table([{"number": "tata", "paper": 147, "ours": 20}])


@pytest.mark.parametrize("case", ["jores21"])
def test_the_published_numbers_of_the_use_cases_are_in_order(case):
    from pathlib import Path
    numbers = read_published(Path(__file__).resolve().parents[1] / "use_cases/configs" / case / "published.yaml")
    assert numbers and all(len(entry["source"]) > 10 for entry in numbers.values())
    for name, entry in numbers.items():
        for architecture, values in (entry.get("seeds") or {}).items():
            assert len(values) == 5 and np.mean(values) == pytest.approx(entry["value"][architecture], abs=6e-5), name
    assert as_json(numbers) == json.loads(json.dumps(numbers, default=str))
