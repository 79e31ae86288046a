"""Models of open chromatin against slow or independent versions of themselves, at lengths nobody chose,"""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from eugene.etl.encodings import kmer_partners, ohe_kmers
from eugene.etl.motifs import motif_from_consensus
from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.layers.basics import find_layer, first_conv
from eugene.layers.initialization import init_from_motifs, motif_filters
from eugene.layers.strands import check_strands
from eugene.models import accessibility as acc, grammar
from eugene.models.basic import check_arch, count_params

fuzz = settings(max_examples=30, deadline=None, derandomize=True)

PUBLISHED = {
    "Kopp21CNN": (acc.Kopp21CNN, {}, acc.KOPP21_CARD), "Kopp21CNN 2023": (acc.Kopp21CNN, {"legacy": True}, acc.KOPP21_2023_CARD),
    "DeepSEA": (acc.DeepSEA, {}, acc.DEEPSEA_CARD), "Basset": (acc.Basset, {}, acc.BASSET_CARD), "FactorizedBasset": (acc.FactorizedBasset, {}, acc.FACTORIZED_CARD),
    "scBasset": (acc.scBasset, {}, acc.SCBASSET_CARD), "DanQ": (grammar.DanQ, {}, grammar.DANQ_CARD), "DanQ-JASPAR": (grammar.DanQ, grammar.DANQ_JASPAR, grammar.DANQ_JASPAR_CARD),
    "DeepMEL": (grammar.DeepMEL, {}, grammar.DEEPMEL_CARD), "Satori": (grammar.Satori, {}, grammar.SATORI_CARD), "Satori-RNN": (grammar.Satori, {"recurrent": True}, grammar.SATORI_RNN_CARD),
}
SMALL = {  # the least length that works, and sizes that keep the tests quick
    "Kopp21CNN": (acc.Kopp21CNN, {}, 100), "Kopp21CNN 2023": (acc.Kopp21CNN, {"legacy": True}, 42), "DeepSEA": (acc.DeepSEA, {"channels": 5, "hidden": 6}, 163),
    "Basset": (acc.Basset, {"channels": 5, "hidden": [6]}, 121), "Basset padded": (acc.Basset, {"channels": 5, "hidden": [6], "padding": "same"}, 1),
    "FactorizedBasset": (acc.FactorizedBasset, {"channels": 5, "hidden": [6]}, 48), "scBasset": (acc.scBasset, {"channels": 5, "bottleneck": 4}, 1),
    "DanQ": (grammar.DanQ, {"filters": 5, "units": 4, "hidden": 6}, 38), "DeepMEL": (grammar.DeepMEL, {"filters": 5, "units": 4, "hidden": 6}, 29),
    "Satori": (grammar.Satori, {"filters": 5, "heads": 2, "features": 12}, 6), "Satori-RNN": (grammar.Satori, {"filters": 5, "heads": 2, "features": 12, "recurrent": True}, 6),
}


def onehot(n, length, seed=0):
    return torch.tensor(ohe(random_seqs(n, length, seed=seed))).float()


def rc(x):
    return torch.tensor(reverse_complement(x.numpy()))


# all of them -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PUBLISHED)
def test_the_card_is_the_model(name):
    build, args, card = PUBLISHED[name]
    with torch.device("meta"):
        model = build(**args)
    assert card.name == name.split(" ")[0] and card.variant == ("eugene-2023" if "2023" in name else "published")
    assert count_params(model) == card.n_params and model.input_len == card.input_len
    x = torch.zeros(2, 4, card.input_len, device="meta")
    assert tuple(model.eval()(x).shape) == (2, model.output_dim) and card.table[-1][1] == str(model.output_dim)
    assert card.citation and card.source and card.training and card.confidence and any(card.deviations)


@pytest.mark.parametrize("name", SMALL)
def test_the_least_length_works_and_one_less_is_refused(name):
    build, args, least = SMALL[name]
    for length in (least, least + 1):
        with torch.no_grad():
            assert build(length, 2, **args).eval()(onehot(3, length)).shape == (3, 2)
    torch.manual_seed(0)
    check_arch(build(least + 37, 2, **args), least + 37, 2)
    if least > 1:
        with pytest.raises(ValueError, match="does not fit"):
            build(least - 1, 2, **args)
    for bad in (0, -3):
        with pytest.raises(ValueError):
            build(bad, 2, **args)
    with pytest.raises(ValueError):
        build(least, 0, **args)


@pytest.mark.parametrize("name", SMALL)
def test_wrong_input_is_refused_before_any_computation(name):
    build, args, least = SMALL[name]
    model = build(least + 20, 2, **args)
    for shape, why in (((2, least + 20, 4), "Transpose it"), ((2, 4, least + 21), "input_len="), ((4, least + 20), "batch axis"), ((2, 5, least + 20), r"\(N, 4,")):
        with pytest.raises(ValueError, match=why):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="float"):
        model(torch.zeros(2, 4, least + 20, dtype=torch.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_first_convolution_reads_bases_and_takes_motifs(name):
    build, args, least = SMALL[name]
    model = build(least + 60, **args)
    layer = find_layer(model)
    assert layer.weight.shape[1] == 4
    if layer.weight.shape[2] >= 5:
        init_from_motifs(model, [motif_from_consensus("TGACT", "AP-1")])
        assert motif_filters(model) == {first_conv(model): ["AP-1"]} and layer.weight[0, 3, 0] == 4
    check_arch(model, least + 60, model.output_dim)


@pytest.mark.parametrize("name", SMALL)
def test_a_model_can_learn(name):
    "Sixteen sequences by heart: gradients point the right way"
    build, args, least = SMALL[name]
    if name == "Kopp21CNN 2023":
        args = {**args, "aggr": "mean"}
    torch.manual_seed(0)
    model, x, y = build(least + 100, 1, **args), onehot(16, least + 100), torch.arange(16)[:, None] % 2 * 1.
    for m in model.modules():
        if isinstance(m, nn.Dropout): m.p = 0.
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=.01), []
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        losses.append(loss.item())
    assert min(losses) < .7 * losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_double_precision_agrees(name):
    build, args, least = SMALL[name]
    model, x = build(least + 60, 2, **args).eval(), onehot(3, least + 60)
    with torch.no_grad():
        single, double = model(x), model.double()(x.double())
    assert double.dtype == torch.float64 and torch.allclose(single.double(), double, atol=1e-4)


@fuzz
@given(st.sampled_from(["DeepSEA", "Basset", "Basset padded", "FactorizedBasset", "scBasset", "DanQ", "DeepMEL", "Satori"]), st.integers(170, 400))
def test_any_length_above_the_least_runs(name, length):
    build, args, _ = SMALL[name]
    with torch.no_grad():
        assert build(length, 3, **args).eval()(torch.zeros(2, 4, length)).shape == (2, 3)


DROPOUTS = {"Kopp21CNN": [0], "Kopp21CNN 2023": [0], "DeepSEA": [.2, .2, .5], "Basset": [.3, .3], "FactorizedBasset": [.3, .3], "scBasset": [.2], "DanQ": [.2, .5], "DanQ-JASPAR": [.2, .5],
            "DeepMEL": [.2, .2, .4], "Satori": [.2, 0], "Satori-RNN": [.2, .4]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_dropout_and_norms_are_the_cards(name):
    build, args, _ = PUBLISHED[name]
    with torch.device("meta"):
        model = build(**args)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == DROPOUTS[name]
    constants = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm1d)}
    keras, basenji = {"Kopp21CNN": {(1e-3, .01)}}, {"scBasset": {(1e-3, .1)}}
    assert constants <= (keras | basenji).get(name, {(1e-5, .1)})
    if "Satori" in name: assert model.attention.dropout == .2


@pytest.mark.parametrize("name", ["Kopp21CNN", "DanQ", "DeepMEL"])
def test_keras_models_start_with_glorot_weights(name):
    build, args, least = SMALL[name]
    for layer in (m for m in build(least + 60, **args).modules() if isinstance(m, (nn.Conv1d, nn.Linear))):
        fan_out, fan_in = layer.weight.shape[:2]
        bound = .05 if name == "DeepMEL" and fan_in == 4 else (6 / ((fan_in + fan_out) * layer.weight[0, 0].numel()))**.5
        assert .7 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()


def test_scbasset_starts_with_he_weights():
    model = acc.scBasset(90, 7, 32, 64)
    for layer in (model.conv[0].conv, model.conv[1].conv, model.bottleneck.linear):
        fan_in = layer.weight[0].numel()
        assert abs(layer.weight.std().item() / (2 / fan_in)**.5 - 1) < .1
    assert not model.cells.output.bias.any()


def test_kopp_input_dropout_hides_letters_in_training_alone():
    model, x = acc.Kopp21CNN(120, input_dropout=.2), onehot(4, 120)
    hidden = [(model.train().dropout(x)[x > 0] == 0).float().mean().item() for _ in range(5)]
    assert abs(np.mean(hidden) - .2) < .05 and torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


def test_kopp_published_uses_the_norm_that_2023_does_not():
    x = onehot(4, 120)
    for legacy in (False, True):
        model = acc.Kopp21CNN(120, legacy=legacy).eval()
        with torch.no_grad():
            before = model(x)
            model.pool_norm.running_mean.fill_(1.); model.pool_norm.weight.fill_(3.)
            assert torch.equal(model(x), before) is legacy


def test_kopp_by_plain_torch():
    model, x = acc.Kopp21CNN(220).double().eval(), onehot(4, 220).double()
    with torch.no_grad():
        for b in model.buffers():
            if b.is_floating_point(): b.uniform_(.5, 2)
        scan = model.scan.body[0]
        both = [torch.relu(nn.functional.conv1d(x, w, scan.bias)) for w in (scan.weight, scan.weight.flip((1, 2)))]
        norm = lambda m, x: nn.functional.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, eps=1e-3)
        h = norm(model.pool_norm, nn.functional.max_pool1d(torch.maximum(*both), 30))
        h = norm(model.norm, torch.relu(nn.functional.conv1d(h, model.conv.weight, model.conv.bias)).amax(2))
        assert torch.allclose(model(x), nn.functional.linear(h, *model.dense.output.parameters()), atol=1e-12)


# Kopp21CNN -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", [1, 2, 3])
def test_kopp_scan_is_a_loop_over_positions(order):
    scan, partners = acc.Kopp21CNN(order=order).scan, kmer_partners(order)
    w, b = (p.detach().numpy().astype(float) for p in scan.body[0].parameters())
    x = ohe_kmers(random_seqs(1, 30, seed=order), order)[0].astype(float)
    slow = np.zeros((10, x.shape[1] - 10))
    for f in range(10):
        for p in range(slow.shape[1]):
            given = sum(w[f, c, k] * x[c, p + k] for c in range(4**order) for k in range(11)) + b[f]
            other = sum(w[f, partners[c], 10 - k] * x[c, p + k] for c in range(4**order) for k in range(11)) + b[f]
            slow[f, p] = max(given, other, 0)
    with torch.no_grad():
        assert np.allclose(scan(torch.tensor(x[None]).float())[0], slow, atol=1e-5)


def test_kopp_orders_differ_in_the_reverse_complement_of_channels():
    "Turning the channels around is right for bases and wrong for pairs"
    assert list(kmer_partners(1)) == [3, 2, 1, 0] and list(kmer_partners(2)) != list(range(16))[::-1]
    assert list(acc.Kopp21CNN(order=2).revcomp.partners) == list(kmer_partners(2))


@pytest.mark.parametrize("aggr", ["max", "mean"])
def test_kopp_2023_is_invariant_whatever_its_weights(aggr):
    model = acc.Kopp21CNN(200, 3, aggr=aggr, legacy=True).double()
    with torch.no_grad():
        for p in model.parameters(): p.normal_()
    assert check_strands(model, 200)["invariant"] < 1e-10


def test_kopp_published_with_whole_windows_is_symmetric_up_to_the_second_convolution():
    model, x = acc.Kopp21CNN(310).eval(), onehot(4, 310)  # 300 positions are ten whole windows
    pooled = lambda x: model.pool_norm(model.pool(model.scan(x)))
    with torch.no_grad():
        assert torch.allclose(pooled(rc(x)), pooled(x).flip(2), atol=1e-5)
        assert not torch.allclose(model(rc(x)), model(x), atol=1e-4)


# convolutional models --------------------------------------------------------------------------------------------------

def test_basset_is_the_table_in_plain_torch():
    model = acc.Basset(301, 3, (5, 6, 7), (8, 9)).eval()
    layers, width = [], 4
    for filters, kernel, pool in ((5, 19, 3), (6, 11, 4), (7, 7, 4)):
        layers += [nn.Conv1d(width, filters, kernel), nn.BatchNorm1d(filters), nn.ReLU(), nn.MaxPool1d(pool, ceil_mode=True)]
        width = filters
    length = 301
    for kernel, pool in ((19, 3), (11, 4), (7, 4)): length = -(-(length - kernel + 1) // pool)
    layers.append(nn.Flatten())
    for a, b in ((7 * length, 8), (8, 9)): layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(.3)]
    plain = nn.Sequential(*layers, nn.Linear(9, 3)).eval()
    with torch.no_grad():
        for b in model.buffers():
            if b.is_floating_point(): b.uniform_(.5, 2)
    ours, theirs = list(model.state_dict().values()), plain.state_dict()
    assert [tuple(v.shape) for v in ours] == [tuple(v.shape) for v in theirs.values()]
    plain.load_state_dict(dict(zip(theirs, ours)))
    x = onehot(4, 301)
    with torch.no_grad():
        assert torch.allclose(model(x), plain(x), atol=1e-5)


def test_factorized_groups_see_as_far_as_bassets_filters():
    "19, 11 and 7 positions: a step of a kernel of `k` adds `k - 1`"
    kernels = [f.conv.kernel_size[0] for f in acc.FactorizedBasset(60, 1, 5, [5]).conv]
    assert [1 + sum(k - 1 for k in group) for group in (kernels[:5], kernels[5:8], kernels[8:])] == [19, 11, 7]


def test_deepsea_silent_network_is_not_silent():
    model = acc.DeepSEA(170, 1, 4, hidden=5).eval()
    with torch.no_grad():
        for name, p in model.named_parameters(): p.fill_(1. if "output" in name else -1.)
        assert abs(model.double()(onehot(1, 170).double()).item() - 1 - 5e-6) < 1e-9


@pytest.mark.parametrize("length", [90, 91, 95, 1344])
def test_scbasset_windows_that_are_not_full_are_kept(length):
    floors = acc.scBasset(length, 1, 4, 5).conv
    expected = length
    for pool, floor in zip((3, 2, 2, 2, 2, 2, 2, 1), floors):
        expected = -(-expected // pool)
        assert floor.output_len == expected


def test_scbasset_prediction_is_the_product_of_a_site_and_a_cell():
    model, x = acc.scBasset(90, 7, 4, 5).eval(), onehot(5, 90)
    with torch.no_grad():
        site = model.act(model.bottleneck(model.conv(x)))
        assert torch.allclose(model(x), site @ model.cells.output.weight.T + model.cells.output.bias, atol=1e-6)
        assert torch.linalg.matrix_rank(model(x) - model.cells.output.bias) <= 4


# grammar ---------------------------------------------------------------------------------------------------------------

def slow_keras_lstm(x, w_ih, w_hh, b):
    "One sequence `(L, C)`, step by step"
    hard, size = lambda z: np.clip(.2 * z + .5, 0, 1), len(b) // 4
    h, c, out = np.zeros(size), np.zeros(size), []
    for step in x:
        z = w_ih @ step + w_hh @ h + b
        i, f, g, o = hard(z[:size]), hard(z[size:2*size]), np.tanh(z[2*size:3*size]), hard(z[3*size:])
        c = f * c + i * g
        h = o * np.tanh(c)
        out.append(h)
    return np.array(out)


def test_danq_is_the_table_in_numpy():
    model, x = grammar.DanQ(130, 3, 6, 9, 13, 5, 7).double().eval(), onehot(2, 130).double()
    p = {k: v.numpy() for k, v in model.state_dict().items()}
    for n in range(2):
        seq = x[n].numpy()
        scan = np.array([[max(0, (p["conv.conv.weight"][f] * seq[:, i:i + 9]).sum() + p["conv.conv.bias"][f]) for i in range(122)] for f in range(6)])
        h = scan[:, :117].reshape(6, 9, 13).max(2).T
        unit = lambda h, d: slow_keras_lstm(h, *(p[f"recurrent.unit.{w}_l0{d}"] for w in ("weight_ih", "weight_hh", "bias")))
        both = np.concatenate([unit(h, ""), unit(h[::-1], "_reverse")[::-1]], 1)
        hidden = np.maximum(0, p["dense.hidden0.linear.weight"] @ both.T.ravel() + p["dense.hidden0.linear.bias"])
        assert np.allclose(model(x)[n].detach(), p["dense.output.weight"] @ hidden + p["dense.output.bias"], atol=1e-10)


def test_danq_starts_as_keras_starts():
    unit = grammar.DanQ(130, 3, 6, 9, 13, 5, 7).recurrent.unit
    assert torch.equal(unit.bias_l0, torch.tensor([0., 1., 0., 0.]).repeat_interleave(5))
    for w in unit.weight_hh_l0.chunk(4): assert torch.allclose(w @ w.T, torch.eye(5), atol=1e-5)


@fuzz
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_mean_probability_logit_lies_between_and_is_symmetric(a, b):
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
    y = grammar._mean_probability_logit(a, b)
    assert torch.isfinite(y) and y == grammar._mean_probability_logit(b, a) and min(a, b) - 1e-9 <= y <= max(a, b) + 1e-9
    assert torch.allclose(y, -grammar._mean_probability_logit(-a, -b)) and torch.isclose(torch.sigmoid(y), (torch.sigmoid(a) + torch.sigmoid(b)) / 2, atol=1e-12)


def test_deepmel_dropout_acts_in_the_recurrent_layer_in_training_alone():
    model, x = grammar.DeepMEL(90, 3, 5, 4, 6), onehot(4, 90)
    for m in model.modules():
        if isinstance(m, nn.Dropout): m.p = 0.
    assert (model.one_strand.recurrent.unit.input_dropout, model.one_strand.recurrent.unit.recurrent_dropout) == (.1, .1)
    assert any(not torch.equal(model.train()(x), model(x)) for _ in range(5)) and torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("recurrent", [False, True])
def test_satori_published_depends_on_the_batch_and_ours_does_not(recurrent):
    published = grammar.Satori(60, 2, 5, 2, 6, recurrent, as_published=True).eval()
    ours = grammar.Satori(60, 2, 5, 2, 6, recurrent).eval()
    ours.load_state_dict(published.state_dict())
    x = onehot(6, 60)
    with torch.no_grad():
        assert torch.allclose(ours(x)[:2], ours(x[:2]), atol=1e-5) and not torch.allclose(published(x)[:2], published(x[:2]), atol=1e-4)
        if recurrent:
            assert not torch.allclose(published._windows(x)[1:], published._windows(x[1:]), atol=1e-5)  # the first sample speaks to the others


def test_satori_published_recurrence_is_torchs_with_its_axes_as_the_authors_left_them():
    model, x = grammar.Satori(60, 2, 5, 2, 6, True, as_published=True).eval(), onehot(6, 60)
    theirs = nn.LSTM(5, 6, num_layers=2, bidirectional=True)  # not batch_first
    theirs.load_state_dict(model.recurrent.unit.state_dict())
    with torch.no_grad():
        assert torch.allclose(model._windows(x), theirs(model.conv(x).permute(0, 2, 1))[0].permute(0, 2, 1), atol=1e-6)


def test_satori_attention_sees_no_order_without_recurrence():
    "Neither the sum over windows nor attention knows where a window lies"
    model, x = grammar.Satori(60, 2, 5, 2, 6).eval(), onehot(3, 60)
    h = model._windows(x)
    y = lambda h: model.act(model.attention(h)).sum(2)
    with torch.no_grad():
        assert torch.allclose(y(h[:, :, torch.randperm(10)]), y(h), atol=1e-5)
