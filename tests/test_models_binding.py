"Binding and activity models: any size keeps the contract, strands, layouts, and what the rest of the book needs of them"
import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from eugene.etl.motifs import motif_from_consensus
from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.interpretation.filters import filter_pfms, layer_outputs
from eugene.layers.basics import first_conv
from eugene.layers.initialization import init_from_motifs, motif_filters
from eugene.layers.strands import check_strands
from eugene.models.activity import DEEPSTARR_2023, JORES21_2023, STREAMS, DeepSTARR, Jores21CNN, TwoStreams
from eugene.models.basic import check_arch
from eugene.models.binding import DeepBind, DeepBindKlie23, ResidualBind, reverse_scan

fuzz = settings(derandomize=True, deadline=None, max_examples=25)
MODELS = {
    "DeepBind rbp": lambda L, T: DeepBind(L, T, dropout=.5),
    "DeepBind dna": lambda L, T: DeepBind(L, T, mode="dna", hidden=(), kernel=9),
    "DeepBind 2023": lambda L, T: DeepBindKlie23(L, T),
    "ResidualBind": lambda L, T: ResidualBind(L, T, filters=6, hidden=8),
    **{f"Jores21CNN {word}": lambda L, T, word=word: Jores21CNN(L, T, filters=5, strands=word) for word in STREAMS},
    "DeepSTARR": lambda L, T: DeepSTARR(L, T, filters=6),
    "DeepSTARR 2023": lambda L, T: DeepSTARR(**{**DEEPSTARR_2023, "input_len": L, "output_dim": T, "filters": 6}),
}
EACH = pytest.mark.parametrize("name", sorted(MODELS))


def onehot(n, length, seed=0):
    return torch.tensor(ohe(random_seqs(n, length, seed=seed))).float()


@EACH
@pytest.mark.parametrize("length, outputs", [(40, 1), (61, 3)])
def test_contract_at_lengths_and_outputs_of_ones_own(name, length, outputs):
    check_arch(MODELS[name](length, outputs), length, outputs)


@EACH
def test_wrong_input_is_refused_before_any_compute(name):
    model, x = MODELS[name](40, 1).eval(), onehot(2, 40)
    for wrong, message in ((x.transpose(1, 2), "Transpose it"), (x[..., :30], "input_len=30"), (x[0], "batch axis"), (x.byte(), "x.float"), (x[:, :3], "takes one-hot")):
        with pytest.raises(ValueError, match=message):
            model(wrong)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "error:Converting a tensor to a Python boolean")
@EACH
def test_traced_exported_copied_and_pickled(name, tmp_path):
    model, x = MODELS[name](40, 2).eval(), onehot(3, 40)
    y = model(x).detach()
    torch.save(model, tmp_path / "whole.pt")
    others = [torch.jit.trace(model, x), torch.fx.symbolic_trace(nn.Sequential(model)), torch.export.export(model, (x,)).module(),
              copy.deepcopy(model), torch.load(tmp_path / "whole.pt", weights_only=False)]
    for other in others:
        assert torch.allclose(other(x), y, atol=1e-5)


@EACH
def test_first_convolution_runs_once_and_takes_motifs(name):
    "What interpretation and initialisation rely on: the layer is found, runs once a pass, and its filters keep their names"
    model, x = MODELS[name](40, 1), ohe(random_seqs(6, 40, seed=0))
    layer = first_conv(model)
    filters = model.get_submodule(layer).weight.shape[0]
    assert layer_outputs(model, x).shape[:2] == (6, filters)
    assert filter_pfms(model, x, n=4).shape[0] == filters
    init_from_motifs(model, [motif_from_consensus("TATAA", "TATA")])
    assert motif_filters(model) == {layer: ["TATA"]}


@EACH
def test_a_step_of_training_lowers_the_loss(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = MODELS[name](40, 1), onehot(64, 40)
        y, losses, optimizer = x[:, 1:3].sum((1, 2))[:, None] / 10 - 2, [], torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            loss = F.mse_loss(model.train()(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0] / 2


@fuzz
@given(st.integers(1, 9), st.integers(9, 30), st.booleans(), st.integers(0, 99))
def test_reverse_scan_is_a_scan_with_turned_kernels(kernel, length, alphabet_axis, seed):
    gen = torch.Generator().manual_seed(seed)
    conv, x = nn.Conv1d(4, 3, kernel), torch.randn(2, 4, length, generator=gen)
    turned = conv.weight.flip((1, 2) if alphabet_axis else 2)
    assert torch.allclose(reverse_scan(conv, x, alphabet_axis), F.conv1d(x, turned, conv.bias), atol=1e-5)


@fuzz
@given(st.integers(5, 40), st.integers(1, 20), st.integers(1, 5), st.sampled_from([(), 4, (5, 3)]), st.integers(1, 3), st.sampled_from(["rbp", "dna"]))
def test_deepbind_of_any_size(length, kernel, filters, hidden, outputs, mode):
    model = DeepBind(length, outputs, mode, filters, kernel, hidden).eval()
    x = onehot(3, length)
    assert model(x).shape == (3, outputs)
    if mode == "dna":
        assert check_strands(model, length)["invariant"] < 1e-4
    else: # padding stands for unknown letters: adding more of them adds windows of unknowns only, to the maxima
        pooled = model.pool(model.act(model.scan(x)))[:, ::2]
        longer = model.pool(model.act(model.scan(F.pad(x, (2, 2), value=.25))))[:, ::2]
        unknown = model.act(model.scan.weight.mean(1).sum(1) + model.scan.bias)
        assert torch.allclose(longer, torch.maximum(pooled, unknown), atol=1e-5)


def test_deepbind_dna_score_is_the_larger_of_its_two_strands():
    "The dna score is the maximum over strands of what the same weights say of one strand"
    dna = DeepBind(50, 2, mode="dna", filters=6, kernel=8).eval()
    x = onehot(8, 50)
    def one(x): return dna.dense(dna.pool(dna.act(dna.scan(x))))
    rc = torch.tensor(reverse_complement(x.numpy()))
    assert torch.allclose(dna(x), torch.maximum(one(x), one(rc)), atol=1e-5)
    assert (one(x) - one(rc)).abs().max() > 1e-4


@fuzz
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3, 5, 7]), st.integers(0, 99))
def test_side_by_side_streams_mirror_and_wrong_axes_do_not(filters, layers, kernel, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        right = TwoStreams(filters, layers, kernel, 0.).eval()
        x = onehot(2, 30, seed)
        assert torch.allclose(right(x.flip((1, 2))), right(x).flip(2), atol=1e-4)
        wrong = TwoStreams(4, layers + 1, 5, 0., wrong_axes=True).eval()
        for p in wrong.parameters(): p.data.uniform_(-.3, .5)
        assert not torch.allclose(wrong(x.flip((1, 2))), wrong(x).flip(2), atol=1e-4)


def test_wrong_axes_are_filters_and_channels():
    "Exactly the slip of the earlier port, no other: kernels turned on axes 0 and 1, positions as they are"
    m, x = TwoStreams(6, 1, 5, 0., wrong_axes=True).eval(), onehot(3, 30)
    w, b = m.state_dict()["0.weight"], m.state_dict()["0.bias"]
    expected = sum(torch.relu(F.conv1d(x, k, b, padding=2)) for k in (w, torch.flip(w, [0, 1])))
    assert torch.allclose(m(x), expected, atol=1e-5)


def test_jores21_layouts_share_weights_by_name():
    states = [Jores21CNN(40, filters=5, layers=3, strands=word).state_dict() for word in STREAMS]
    assert [list(s) for s in states] == [list(states[0])] * 3
    assert [{k: tuple(v.shape) for k, v in s.items()} for s in states] == [{k: tuple(v.shape) for k, v in states[0].items()}] * 3


def test_variants_share_nothing():
    "A second model from the same constants is untouched by the first (a shared default once gave a model the length of another)"
    before = copy.deepcopy((JORES21_2023, DEEPSTARR_2023))
    first, second = Jores21CNN(40, **{**JORES21_2023, "filters": 4}), Jores21CNN(60, **{**JORES21_2023, "filters": 4})
    assert (first.dense.input_dim, second.dense.input_dim) == (160, 240) and (JORES21_2023, DEEPSTARR_2023) == before
    with torch.no_grad():
        second.conv.weight.zero_()
    assert first.conv.weight.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("strands", ["layer", "end"])
def test_jores21_learns_real_promoters(data_dir, strands):
    "A short training on measured promoters explains a fifth of the variance of held-out ones"
    import pandas as pd
    file = data_dir / "jores21" / "jores21_leaf_dev.tsv.gz"
    if not file.exists(): pytest.skip(f"no {file}")
    table = pd.read_csv(file, sep="\t")
    table = table[table.sequence.str.len() == 170].sample(frac=1, random_state=0)
    x, y = torch.tensor(ohe(list(table.sequence))).float(), torch.tensor(table.enrichment.to_numpy()).float()[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Jores21CNN(filters=32, strands=strands)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(10):
            for rows in torch.randperm(3500).split(128):
                loss = F.mse_loss(model.train()(x[700 + rows]), y[700 + rows])
                optimizer.zero_grad(); loss.backward(); optimizer.step()
        with torch.no_grad():
            r = np.corrcoef(model.eval()(x[:700])[:, 0], y[:700, 0])[0, 1]
    assert r**2 > .2
