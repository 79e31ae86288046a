"""Prediction from the outside: every door gives the same answer, strands and members are what they say, stores are whole or absent, memory is bounded"""
import gzip
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from eugene.core import rng
from eugene.etl import loading, seqdata
from eugene.etl.building import read_genome
from eugene.etl.fasta import write_fasta
from eugene.etl.loading import Rows, loader
from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.models.activity import Jores21CNN
from eugene.models.zoo import build_arch
from eugene.models.saving import save_model
from eugene.training import prediction
from eugene.training.prediction import open_predictions, predict, predict_regions
from eugene.training.uncertainty import predict_dropout, predict_ensemble
from toy_models import LinearModel, SumModel


class Profile(nn.Module):
    "Where A stands and, in a second track, where T stands: turned round with its tracks, the same for either strand"
    strand = "none"

    def forward(self, x): return torch.stack([x[:, 0], x[:, 3]], 1)


@pytest.fixture(scope="module")
def seqs(): return random_seqs(700, 40, seed=0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Jores21CNN(input_len=40, filters=8)


# ---------------------------------------------------------------- the same answer through every door

@pytest.mark.parametrize("packed", [False, True])
def test_files_stores_text_and_arrays_agree(seqs, tmp_path, packed):
    w = rng(1).normal(size=(2, 4, 40))
    truth, ds = np.einsum("nal,tal->nt", ohe(seqs), w), make_dataset(seqs)
    fasta = tmp_path / "a.fa"
    write_fasta(ds, fasta)
    if packed:
        (tmp_path / "a.fa.gz").write_bytes(gzip.compress(fasta.read_bytes())); fasta = tmp_path / "a.fa.gz"
    to_zarr(ds, tmp_path / "a.zarr")
    for data in (seqs, ohe(seqs), ds, fasta, str(fasta), tmp_path / "a.zarr", open_zarr(tmp_path / "a.zarr")):
        assert np.allclose(predict(LinearModel(w), data), truth, atol=1e-4)


@pytest.mark.parametrize("strands", ["given", "both", "max"])
def test_batch_size_and_the_way_out_do_not_change_the_answer(model, seqs, tmp_path, strands):
    whole = predict(model, seqs, batch_size=700, strands=strands)
    for batch_size in (1, 3, 64, 699, 5000): assert np.allclose(predict(model, seqs[:200], batch_size=batch_size, strands=strands), whole[:200], atol=1e-5)
    kept = predict(model, make_dataset(seqs), batch_size=33, strands=strands, out=tmp_path / f"{strands}.zarr")
    assert kept["prediction"].dtype == "float32" and np.allclose(kept["prediction"].values, whole, atol=1e-5)


@pytest.mark.parametrize("how", [{"max_jitter": 3}, {"length": "pad", "side": "left"}, {"length": "pad", "side": "both"}, {"length": "pad", "side": "right"}])
@pytest.mark.parametrize("unknown", ["zero", "uniform"])
def test_letters_are_encoded_as_the_loader_encodes_them_in_training(how, unknown):
    "Flanks are left out, padding is zeros under every policy, and an N within is not"
    gen = rng(2)
    texts = ["".join(gen.choice(list("ACGTN"), gen.integers(15, 30))) for _ in range(60)]
    ds = make_dataset([t.ljust(30, "A")[:30] for t in texts]).assign_attrs(max_jitter=3) if "max_jitter" in how else make_dataset(texts, **how)
    w = gen.normal(size=(4, 24 if "max_jitter" in how else ds.sizes["position"]))
    through_loader = np.concatenate([LinearModel(w)(b.x).detach().numpy() for b in loader(ds, 16, unknown=unknown)])
    assert np.allclose(predict(LinearModel(w), ds, batch_size=7, unknown=unknown), through_loader, atol=1e-5)


def test_regions_of_a_real_genome_agree_with_pyfaidx(data_dir, tmp_path):
    "Human chr22 (300 kb of hg38): windows on both strands, letters by pyfaidx, scores by hand"
    pyfaidx = pytest.importorskip("pyfaidx")
    source = data_dir / "formats/kipoiseq_hg38_chr22_32000000_32300000.fa"
    fasta = tmp_path / "chr22.fa"; fasta.write_bytes(source.read_bytes())
    genome = pyfaidx.Fasta(str(fasta))
    chrom, gen = next(iter(genome.keys())), rng(3)
    start = gen.integers(0, len(genome[chrom]) - 200, 300)
    regions = pd.DataFrame({"chrom": chrom, "start": start, "end": start + 200, "strand": gen.choice(["+", "-"], 300), "score": gen.random(300)})
    w = gen.normal(size=(4, 200))
    letters = [genome[chrom][s:s + 200] for s in start]
    texts = [str(l.reverse.complement if strand == "-" else l).upper() for l, strand in zip(letters, regions["strand"])]
    found = predict_regions(LinearModel(w), regions, fasta, batch_size=64, out=tmp_path / "out.zarr")
    assert np.allclose(found["prediction"].values[:, 0], (ohe(texts) * w).sum((1, 2)), atol=1e-3)
    assert np.array_equal(found["start"].values, start) and np.array_equal(found["score"].values, regions["score"])
    both = predict_regions(LinearModel(w), regions, fasta, strands="both")["prediction"].values[:, 0]
    assert np.allclose(both, ((ohe(texts) + ohe(reverse_complement(texts))) * w).sum((1, 2)) / 2, atol=1e-3)


def test_a_bed_file_with_windows_beyond_the_chromosome(tmp_path):
    write_fasta(make_dataset(random_seqs(1, 100, seed=4), ids=["chr1"]), tmp_path / "g.fa")
    (tmp_path / "p.bed").write_text("chr1\t0\t10\tfirst\nchr1\t40\t60\tmiddle\nchr1\t90\t100\tlast\n")
    with pytest.raises(ValueError, match="edges"): predict_regions(SumModel(), tmp_path / "p.bed", tmp_path / "g.fa", length=30)
    assert len(predict_regions(SumModel(), tmp_path / "p.bed", tmp_path / "g.fa", length=30, edges="drop")["prediction"]) == 1
    padded = predict_regions(SumModel(), tmp_path / "p.bed", tmp_path / "g.fa", length=30, edges="pad")
    assert np.array_equal(padded["prediction"].values, predict(SumModel(), read_genome(tmp_path / "p.bed", tmp_path / "g.fa", length=30, edges="pad")))


# ---------------------------------------------------------------- strands, members, dropout

def test_both_strands_are_the_mean_of_two_calls(model, seqs):
    there, back = predict(model, seqs), predict(model, reverse_complement(seqs))
    assert np.allclose(predict(model, seqs, strands="both"), (there + back) / 2, atol=1e-5)
    assert np.allclose(predict(model, seqs, strands="max"), np.maximum(there, back), atol=1e-5)
    assert np.allclose(predict(model, seqs, strands="both"), predict(model, reverse_complement(seqs), strands="both"), atol=1e-5)
    assert not np.allclose(there, back, atol=1e-3)


def test_profiles_meet_position_by_position_and_stranded_tracks_swap(seqs):
    x = ohe(seqs).astype(np.float32)
    there, back = x[:, [0, 3]], reverse_complement(x)[:, [0, 3]]
    assert np.allclose(predict(Profile(), seqs, strands="both"), (there + back[..., ::-1]) / 2)
    stranded = Profile(); stranded.strand = "equivariant_tracks"
    assert np.allclose(predict(stranded, seqs, strands="both"), (there + back[:, ::-1, ::-1]) / 2)
    assert np.array_equal(predict(stranded, seqs, strands="both"), there)  # A and T, turned round and swapped: the same tracks


def test_members_of_an_ensemble(seqs, tmp_path):
    models = []
    for seed in range(3):
        torch.manual_seed(seed); models.append(build_arch("DeepBind", input_len=40, output_dim=1))
        save_model(models[-1], tmp_path / str(seed))
    each = np.stack([predict(m, seqs) for m in models])
    found = predict_ensemble(models, seqs)
    assert np.allclose(found.mean, each.mean(0), atol=1e-6) and np.allclose(found.sd, each.std(0), atol=1e-6) and np.array_equal(found.members, each)
    assert np.allclose(predict_ensemble([tmp_path / str(s) for s in range(3)], seqs).mean, found.mean, atol=1e-6)
    alone = predict_ensemble(models[:1], seqs)
    assert np.array_equal(alone.mean, each[0]) and not alone.sd.any()


def test_dropout_has_the_mean_and_the_spread_of_the_book():
    "A linear model behind dropout of share p: mean as without it, variance p/(1-p) times the sum of squared terms"
    gen, p = rng(5), .3
    w, texts = gen.normal(size=(4, 50)), random_seqs(20, 50, seed=6)
    model = nn.Sequential(nn.Dropout(p), LinearModel(w))
    terms = (ohe(texts) * w).sum(1)
    found = predict_dropout(model, texts, passes=2000, batch_size=20, seed=1)
    sd = np.sqrt(p / (1 - p) * (terms**2).sum(1))
    assert np.allclose(found.mean[:, 0], terms.sum(1), atol=5 * sd.max() / np.sqrt(2000))
    assert np.allclose(found.sd[:, 0], sd, rtol=.1)


# ---------------------------------------------------------------- stores

def test_a_store_can_be_joined_to_its_table(seqs, tmp_path):
    ds = make_dataset(seqs, np.arange(700.), ids=[f"gene{i}" for i in range(700)], columns={"species": np.repeat(["At", "Zm"], 350), "gc": np.linspace(0, 1, 700)}, target_names="leaf")
    predict(SumModel(), ds, out=tmp_path / "p.zarr")
    kept = open_predictions(tmp_path / "p.zarr")
    assert kept["target"].values.tolist() == ["leaf"] and "seq" not in kept
    mixed = ds.isel(sequence=rng(7).permutation(700))
    table = kept["prediction"].to_series().reset_index().assign(id=kept["id"].values).set_index("id")["prediction"]
    assert np.array_equal(table.loc[mixed["id"].values].values, predict(SumModel(), mixed)[:, 0])
    assert kept["species"].values.tolist() == ds["species"].values.tolist() and np.array_equal(kept["gc"].values, ds["gc"].values)


def test_nothing_is_left_of_an_interrupted_run_and_the_old_store_stays(seqs, tmp_path):
    predict(SumModel(), seqs, out=tmp_path / "p.zarr")
    before = open_predictions(tmp_path / "p.zarr")["prediction"].values

    class Stops(SumModel):
        calls = 0
        def forward(self, x):
            self.calls += 1
            if self.calls == 4: raise KeyboardInterrupt
            return super().forward(x)

    stops = Stops().train()
    with pytest.raises(KeyboardInterrupt): predict(stops, seqs, 100, out=tmp_path / "p.zarr", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["p.zarr"] and stops.training
    assert np.array_equal(open_predictions(tmp_path / "p.zarr")["prediction"].values, before)


def test_a_store_with_a_chunk_lost_is_refused(seqs, tmp_path):
    predict(SumModel(), seqs, out=tmp_path / "p.zarr")
    next(p for p in (tmp_path / "p.zarr/prediction/c").rglob("*") if p.is_file()).unlink()
    with pytest.raises(ValueError, match="not complete"): open_predictions(tmp_path / "p.zarr")


def test_reading_ahead_in_a_thread_as_on_a_gpu_changes_nothing(model, seqs, tmp_path, monkeypatch):
    to_zarr(make_dataset(seqs), tmp_path / "a.zarr")
    alone = predict(model, open_zarr(tmp_path / "a.zarr"), batch_size=50, strands="both")
    monkeypatch.setattr(prediction, "_ahead", lambda work, items, threads: loading._ahead(work, items, 1))
    assert np.array_equal(predict(model, open_zarr(tmp_path / "a.zarr"), batch_size=50, strands="both"), alone)

    class Fails(SumModel):
        def forward(self, x): raise RuntimeError("in the model")

    with pytest.raises(RuntimeError, match="in the model"): predict(Fails(), open_zarr(tmp_path / "a.zarr"), batch_size=50)
    with pytest.raises(ValueError, match="one length"): predict(SumModel(), ["ACGT", "ACG"])


def test_a_store_is_read_once_and_in_large_pieces(tmp_path, monkeypatch):
    to_zarr(make_dataset(random_seqs(20_000, 100, seed=9)), tmp_path / "many.zarr")
    pieces, read = [], Rows.read_piece
    monkeypatch.setattr(Rows, "read_piece", lambda self, piece: pieces.append(piece) or read(self, piece))
    predict(SumModel(), open_zarr(tmp_path / "many.zarr"), batch_size=100)
    assert len(pieces) < 10 and sum(b - a for a, b in pieces) < 1.1 * 20_000


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, monkeypatch):
    "Profiles of 40,000 sequences are 16 MB as an array; written in small chunks, no more than a few MB are held"
    names = {"ids": [str(i) for i in range(40_000)]}
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, *size: min(n, 2048))
    to_zarr(make_dataset(random_seqs(40_000, 100, seed=8), **names), tmp_path / "many.zarr")
    ds = open_zarr(tmp_path / "many.zarr")
    ds["id"].load()

    class One(nn.Module):
        def forward(self, x): return x[:, :1]

    def peak(**how):
        tracemalloc.start()
        try:
            predict(One(), ds, **how)
            return tracemalloc.get_traced_memory()[1] / 1e6
        finally: tracemalloc.stop()

    small, large = peak(out=tmp_path / "out.zarr"), peak()
    assert large > 16 and small < 10, (small, large)
    assert np.array_equal(open_predictions(tmp_path / "out.zarr")["prediction"].values, predict(One(), ds))


# ---------------------------------------------------------------- the model comes back, and says what is wrong

def test_the_model_is_left_as_it_came(model, seqs):
    model.train(); frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d)); frozen.eval()
    before, weights = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    predict(model, seqs, strands="both", precision="bf16"); predict_ensemble([model], seqs); predict_dropout(model, seqs[:10], passes=2)
    with pytest.raises(ValueError): predict(model, ohe(seqs)[:, :, :0])
    assert [m.training for m in model.modules()] == before and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    model.eval()


def test_bf16_reaches_the_matrix_products_and_the_answer_is_float32(seqs):
    seen = []

    class Sees(nn.Module):
        def __init__(self): super().__init__(); self.layer = nn.Linear(160, 1)
        def forward(self, x):
            out = self.layer(x.flatten(1)); seen.append(out.dtype); return out

    sees = Sees()
    low, full = predict(sees, seqs, precision="bf16"), predict(sees, seqs)
    assert set(seen) == {torch.bfloat16, torch.float32} and low.dtype == np.float32
    assert np.allclose(low, full, atol=.05) and not np.array_equal(low, full)


class Pair(nn.Module):
    def forward(self, x):
        from collections import namedtuple
        return namedtuple("ProfileOutput", "profile counts")(x, x.sum(2))


@pytest.mark.parametrize("model, data, how, error, says", [
    (Pair(), ["ACGT"], {}, TypeError, r"OneHead\(model, head\) is one answer: 'profile', 'counts'"),
    ([SumModel()], ["ACGT"], {}, TypeError, "`predict_ensemble`"),
    ("runs/cnn", ["ACGT"], {}, TypeError, "`load_model`"),
    (SumModel(), "peaks.bed", {}, ValueError, "predict_regions"),
    (SumModel(), "nowhere.fa", {}, FileNotFoundError, "nowhere.fa"),
    (SumModel(), "https://x.org/a.fa", {}, ValueError, "Download it first"),
    (SumModel(), ["ACGT", "ACG"], {}, ValueError, "length"),
    (SumModel(), ["ACGT"], {"strands": "rc"}, ValueError, "'given', 'both', 'max'"),
    (SumModel(), ["ACGT"], {"precision": "16"}, ValueError, "'32', 'bf16'"),
    (SumModel(), ["ACGT"], {"out": 3}, TypeError, "`out` is an int"),
    (SumModel(), ["ACGT"], {"activate": True}, ValueError, "no method `activate`"),
    (SumModel(), ["MKV"], {"alphabet": "protein", "strands": "both"}, ValueError, "no complement"),
    (SumModel(), None, {}, TypeError, "`data` is None"),
])
def test_what_is_wrong_is_said(model, data, how, error, says):
    with pytest.raises(error, match=says): predict(model, data, **how)


def test_an_existing_store_is_refused_before_anything_is_computed(seqs, tmp_path):
    class Counts(SumModel):
        calls = 0
        def forward(self, x): self.calls += 1; return super().forward(x)

    (tmp_path / "mine").mkdir(); (tmp_path / "mine/notes.txt").write_text("mine")
    counts = Counts()
    with pytest.raises(FileExistsError): predict(counts, seqs, out=tmp_path / "mine")
    with pytest.raises(FileExistsError, match="not replaced"): predict(counts, seqs, out=tmp_path / "mine", overwrite=True)
    assert counts.calls == 0 and (tmp_path / "mine/notes.txt").read_text() == "mine"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("strands", ["given", "both"])
def test_a_gpu_gives_the_same(model, seqs, tmp_path, strands):
    to_zarr(make_dataset(seqs), tmp_path / "a.zarr")
    there = predict(model, open_zarr(tmp_path / "a.zarr"), batch_size=50, device="cuda", strands=strands)
    assert np.allclose(there, predict(model, seqs, device="cpu", strands=strands), atol=1e-4) and next(model.parameters()).device.type == "cpu"
