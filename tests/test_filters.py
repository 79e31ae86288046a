"Filters of a layer: geometry, activations, importance, origin, and motifs that training finds"
import numpy as np
import pytest
import torch
from torch import nn

from eugene.etl.motifs import Motif, motif_from_consensus, pfm_to_ppm
from eugene.etl.motif_matching import motif_similarity
from eugene.etl.sequences import ohe, random_seqs
from eugene.etl.simulation import Plant, simulate
from eugene.interpretation.filter_annotation import annotate_filters, filter_importance, motif_counts
from eugene.interpretation.filters import activations, filter_pfms, filter_seqlets
from eugene.layers.convolutions import BiConv1D, RCConv1d
from eugene.layers.initialization import init_from_motifs, init_weights


@pytest.mark.parametrize("width,stride,dilation,padding", [(5, 1, 1, 0), (6, 1, 1, "same"), (4, 3, 1, 2), (3, 2, 2, 4), (6, 1, 2, "same"), (7, 5, 3, 1)])
def test_the_window_of_a_seqlet_gives_its_activation(width, stride, dilation, padding):
    "The dot product of the filter with the bases at `start` is the activation that the table reports"
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 3, width, stride=stride, dilation=dilation, padding=padding)
    x = ohe(random_seqs(30, 41, seed=1))
    table = filter_seqlets(conv, x, n=40, above=-np.inf)
    assert len(table) == 120
    at = table["start"].values[:, None] + dilation * np.arange(width)
    inside = (at >= 0) & (at < 41)
    bases = x[table["sequence"].values[:, None], :, np.where(inside, at, 0)] * inside[..., None]
    w, b = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    f = table["filter"].values
    np.testing.assert_allclose((bases.transpose(0, 2, 1) * w[f]).sum((1, 2)) + b[f], table["activation"], atol=1e-5)


@pytest.mark.parametrize("layer", [BiConv1D(4, 2, 6), BiConv1D(4, 2, 7, padding="valid"), RCConv1d(4, 4, 6, padding="same"), RCConv1d(4, 4, 5, dilation=2, padding=3)])
def test_layers_of_two_strands_recover_a_motif(layer):
    motif, n = "TTGACCAGG"[:layer.kernel_size[0]], layer.dilation[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(ohe(motif) - .5))
        if layer.bias is not None: layer.bias.fill_(0.)
    spaced = ("A" * (n - 1)).join(motif)
    comp = spaced.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    seqs = [s[:i] + w + s[i + len(w):] for s, w, i in zip(random_seqs(60, 50, seed=2), [spaced, comp] * 30, np.random.default_rng(3).integers(5, 35, 60))]
    pfms = filter_pfms(layer, ohe(seqs), n=20)
    test = [pfm_to_ppm(p, 0) for p in pfms]
    np.testing.assert_array_equal(test[0], ohe(motif)[0])
    if isinstance(layer, RCConv1d):
        assert len(pfms) == 4
        np.testing.assert_array_equal(test[3], ohe(motif)[0][::-1, ::-1])


def test_activations_by_batch_in_a_store_are_those_of_the_layer(tmp_path):
    net = nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(inplace=True), nn.Conv1d(6, 3, 4), nn.Flatten(), nn.Linear(3 * 33, 2)).eval()
    x = ohe(random_seqs(70, 40, seed=4))
    stored = activations(net, x, ["0", "2", "4"], out=tmp_path/"a.zarr", batch_size=16, device="cpu")
    with torch.no_grad():
        first = net[0](torch.tensor(x).float())
        third = net[2](first.relu())
    np.testing.assert_allclose(stored["0"], first, atol=1e-5)
    np.testing.assert_allclose(stored["2"], third, atol=1e-5)
    assert stored["0"].chunks is not None and max(stored["0"].chunks[0]) == 16  # read on demand
    assert not any(m._forward_hooks for m in net.modules())


def test_activations_hold_one_batch_at_a_time(tmp_path):
    "Memory does not grow with the number of sequences"
    import tracemalloc
    net, peaks = nn.Sequential(nn.Conv1d(4, 64, 5)), []
    for n in (100, 800):
        x = np.zeros((n, 4, 200), np.uint8)
        activations(net, x[:10], "0", out=tmp_path/"warm.zarr", overwrite=True)
        tracemalloc.start()
        activations(net, x, "0", out=tmp_path/f"{n}.zarr", batch_size=50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    whole = 800 * 64 * 196 * 4
    assert peaks[1] < 1.5 * peaks[0] + 2**20 and peaks[1] < whole / 4


def test_initialised_filters_give_their_motifs_back():
    "The law of the chapter on real geometry: a filter that is a motif, on sequences that hold it, has the motif's PFM"
    motifs = [motif_from_consensus(w, w) for w in ("TATAAATA", "GTGGTCCC", "GAGCCGCC")]
    for layer in (nn.Conv1d(4, 5, 11), BiConv1D(4, 5, 11)):
        init_from_motifs(init_weights(layer, "zeros"), motifs)
        sim = simulate(600, length=100, plants=[Plant(m, 1., name=m.name) for m in motifs], seed=6)
        for pfm, m in zip(filter_pfms(layer, ohe(sim.ds["seq"].values)), motifs):
            assert motif_similarity(pfm, m).pearson > .93
            np.testing.assert_array_equal(pfm_to_ppm(pfm, 0)[:, :8].argmax(0), m.ppm.argmax(0))


class Small(nn.Module):
    "Filters, the best window of each, and a sum"
    def __init__(self, filters=12, width=9):
        super().__init__()
        self.conv, self.head = nn.Conv1d(4, filters, width), nn.Linear(filters, 1)
    def forward(self, x): return self.head(self.conv(x).relu().amax(2))


def trained(model, x, y, epochs=30):
    optimizer, order = torch.optim.Adam(model.parameters(), lr=.01), torch.Generator().manual_seed(0)
    x, y = torch.tensor(x).float(), torch.tensor(y).float()
    for _ in range(epochs):
        for i in torch.randperm(len(x), generator=order).split(100):
            loss = nn.functional.mse_loss(model(x[i]), y[i])
            optimizer.zero_grad(); loss.backward(); optimizer.step()
    return model


@pytest.fixture(scope="module")
def planted():
    gen = np.random.default_rng(0)
    named = [motif_from_consensus(w, n) for w, n in (("TATAAAT", "TATA"), ("GTGGTCCC", "TCP"), ("GAGCCGCC", "GCC-box"))]
    known = named + [Motif(f"sim{i}", gen.dirichlet(np.ones(4) * .25, int(gen.integers(6, 12))).T) for i in range(60)]
    sim = simulate(1000, length=80, plants=[Plant("TATAAAT", 1.5, name="TATA", strand="+"), Plant("GTGGTCCC", 1., name="TCP", strand="+")], noise=.2, seed=1)
    return named, known, ohe(sim.ds["seq"].values), sim.ds["targets"].values


@pytest.mark.parametrize("seed", [0, 1])
def test_training_finds_planted_motifs_and_no_others(planted, seed):
    named, known, x, y = planted
    net = trained(init_weights(Small(), "xavier_uniform", seed=seed), x, y)
    worth = filter_importance(net, x[:300], y[:300], "r2")
    table = annotate_filters(net, known, x, importance=worth)
    counts = motif_counts(table, q_max=.01)
    assert {"TATA", "TCP"} <= set(counts.index) and counts.loc[["TATA", "TCP"]].values.sum() >= counts.values.sum() - 1
    assert (counts["initialised"] == 0).all()
    assert table.loc[table["metric_loss"].idxmax(), "motif"] in ("TATA", "TCP")


def test_what_became_of_initialised_filters(planted):
    named, known, x, y = planted
    net = init_from = init_weights(Small(), "xavier_uniform", seed=2)
    init_from_motifs(init_from, named, outside=0.)
    with torch.no_grad(): net.conv.bias[:3] = -20.
    before = annotate_filters(net, known, x)
    assert before["status"][:3].tolist() == ["kept"] * 3
    table = annotate_filters(trained(net, x, y), known, x)
    assert table["status"][:2].tolist() == ["kept", "kept"] and table["initial"][3:].eq("").all()
    with torch.no_grad():  # overwrite by hand: another motif, noise, silence
        net.conv.weight[0], net.conv.bias[0] = torch.tensor(np.pad(4 * ohe("GTGGTCCC")[0], ((0, 0), (0, 1)))), -20.
        net.conv.weight[1], net.conv.bias[1] = 0., 1.
        net.conv.bias[2] = -1e3
    table = annotate_filters(net, known, x)
    assert table["status"][:3].tolist() == ["other", "lost", "silent"] and table["motif"][0] == "TCP"


def test_importance_is_the_change_without_the_filter(planted):
    _, _, x, _ = planted
    net = nn.Sequential(nn.Conv1d(4, 3, 7), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 74, 2))
    table = filter_importance(net, x[:50], layer="0", target=1, device="cpu")
    with torch.no_grad():
        out = net[0](torch.tensor(x[:50]).float())
        for f in range(3):
            cut = out.clone(); cut[:, f] = out[:, f].mean()
            change = (net[3](out.relu().flatten(1)) - net[3](cut.relu().flatten(1)))[:, 1]
            np.testing.assert_allclose(table["change"][f], change.abs().mean(), rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(table["effect"][f], change.mean(), rtol=1e-3, atol=1e-5)


def test_wrong_layers_are_named(planted):
    _, known, x, _ = planted
    net = Small()
    with pytest.raises(ValueError, match="'conv'"): annotate_filters(net, known, x[:5], layer="konv")
    with pytest.raises(ValueError, match="no `kernel_size`|gives|not the sequences"): filter_seqlets(net, x[:5], "head")
    with pytest.raises(ValueError, match="returns a tuple"): activations(nn.Sequential(nn.LSTM(80, 2)), x[:5], "0")
