"""Recurrent, attention and strand layers, and their first weights: against PyTorch and slow loops, laws over many shapes"""
import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.layers.attention import AddPositions, AttentionPool, SelfAttention, TransformerBlock, length_mask, relative_features
from eugene.layers.blocks import DenseBlock
from eugene.layers.convolutions import BiConv1D
from eugene.layers.initialization import SCHEMES, init_from_motifs, init_weights, weight_blocks
from eugene.layers.recurrent import SUMMARIES, KerasLSTM, RecurrentBlock
from eugene.layers.strands import STRANDS, BothStrands, check_strands, strand_symmetry
from eugene.layers.towers import Conv1DTower
from eugene.models.basic import check_arch, count_params

fuzz = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def close(a, b, eps=1e-5):
    a, b = (t.detach() if hasattr(t, "detach") else torch.as_tensor(np.asarray(t)) for t in (a, b))
    assert a.shape == b.shape and float((a - b).abs().max()) < eps


def scramble(model, std=1.0):
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


# recurrent -------------------------------------------------------------------------------------------------------------

@fuzz
@given(st.sampled_from(["rnn", "lstm", "gru"]), st.integers(1, 3), st.booleans(), st.integers(1, 6), st.integers(1, 7), st.integers(1, 12), st.booleans())
def test_recurrent_block_is_torchs_layer_in_every_form(unit, layers, both, channels, hidden, length, bias):
    block = scramble(RecurrentBlock(channels, hidden, layers, unit, both, bias=bias, output="all"))
    plain = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[unit](channels, hidden, layers, bias=bias, bidirectional=both)
    plain.load_state_dict(block.unit.state_dict())
    x = torch.randn(3, channels, length)
    y, state = plain(x.permute(2, 0, 1))
    close(block(x), y.permute(1, 2, 0))
    block.output = "final"
    h = (state[0] if unit == "lstm" else state)[-(1 + both):]       # final states of the top layer, by direction
    close(block(x), torch.cat(list(h), dim=1))
    block.output = "last_position"
    close(block(x), y[-1])


@pytest.mark.parametrize("output", SUMMARIES)
@pytest.mark.parametrize("unit", ["rnn", "lstm", "gru", "keras_lstm"])
def test_recurrent_models_keep_the_contract(unit, output):
    model = nn.Sequential(Conv1DTower(40, 4, [6], 7, pool="max", pool_kernel=4), RecurrentBlock(6, 5, unit=unit, bidirectional=True, output=output), DenseBlock(10, 2))
    check_arch(model, 40, 2)


@pytest.mark.parametrize("unit", ["rnn", "lstm", "gru", "keras_lstm"])
def test_at_the_last_position_the_backward_direction_has_no_memory_to_learn(unit):
    "Its first step is what is read, so the weights of its state get no gradient: the flaw the default avoids"
    for output, learns in (("last_position", False), ("final", True)):
        block = RecurrentBlock(4, 5, unit=unit, bidirectional=True, output=output)
        block(torch.randn(3, 4, 9)).square().sum().backward()
        assert bool((block.unit.weight_hh_l0_reverse.grad != 0).any()) is learns
        assert (block.unit.weight_hh_l0.grad != 0).any()


@fuzz
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_keras_lstm_with_smooth_gates_is_torchs_lstm(channels, hidden, length, both, seed):
    torch.manual_seed(seed)
    ours, theirs = scramble(KerasLSTM(channels, hidden, both, "sigmoid")), nn.LSTM(channels, hidden, batch_first=True, bidirectional=both)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(torch.zeros_like(p) if name.startswith("bias_hh") else ours.get_parameter(name.replace("bias_ih", "bias")))
    x = torch.randn(2, length, channels)
    (y, states), (y2, states2) = ours(x), theirs(x)
    close(y, y2)
    for a, b in zip(states, states2):
        close(a, b)
    assert count_params(theirs) - count_params(ours) == 4 * hidden * (1 + both)


def test_keras_lstm_trains_on_the_meta_device_and_through_time():
    with torch.device("meta"):
        assert count_params(RecurrentBlock(320, 320, unit="keras_lstm", bidirectional=True)) == 2 * 4 * 320 * (640 + 1)     # DanQ
        assert count_params(RecurrentBlock(128, 128, unit="keras_lstm", bidirectional=True)) == 2 * 4 * 128 * (256 + 1)     # DeepMEL
    x = torch.randn(2, 4, 15, requires_grad=True)
    RecurrentBlock(4, 6, unit="keras_lstm", recurrent_dropout=0.1)(x).sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


# attention -------------------------------------------------------------------------------------------------------------

@fuzz
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_attention_is_torchs(heads, dim, length, bias, padded, seed):
    torch.manual_seed(seed)
    width = heads * dim
    theirs, ours = scramble(nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)).eval(), SelfAttention(width, heads, dim, bias=bias, output_bias=bias)
    with torch.no_grad():
        for i, f in enumerate((ours.query, ours.key, ours.value)):
            f.weight.copy_(theirs.in_proj_weight.chunk(3)[i])
            if bias:
                f.bias.copy_(theirs.in_proj_bias.chunk(3)[i])
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(3, width, length)
    lengths = torch.randint(1, length + 1, (3,)) if padded else None
    mask = length_mask(lengths, length) if padded else torch.ones(3, length, dtype=torch.bool)
    y, shares = theirs(*[x.transpose(1, 2)] * 3, key_padding_mask=~mask if padded else None, average_attn_weights=False)
    close(ours(x, lengths).transpose(1, 2)[mask], y[mask], 1e-3)
    close(ours.maps(x, lengths), shares, 1e-4)
    close(ours.maps(x, lengths).sum(-1), torch.ones(3, heads, length), 1e-5)


@fuzz
@given(st.integers(1, 10), st.integers(0, 99))
def test_relative_logits_by_index(length, seed):
    torch.manual_seed(seed)
    m = SelfAttention(6, heads=2, key_dim=3, value_dim=4, relative=12)
    x = torch.randn(2, 6, length)
    q, k = (f(x.transpose(1, 2)).view(2, length, 2, 3) for f in (m.query, m.key))
    r = m.distances.project(relative_features(length, 12)).view(2 * length - 1, 2, 3)
    u, w = m.distances.content_bias[:, 0], m.distances.distance_bias[:, 0]
    logits = torch.zeros(2, 2, length, length)
    for i in range(length):
        for j in range(length):
            scaled = q[:, i] * 3**-.5
            logits[:, :, i, j] = ((scaled + u) * k[:, j]).sum(-1) + ((scaled + w) * r[j - i + length - 1]).sum(-1)
    close(m.maps(x), logits.softmax(-1))


def test_attention_models_keep_the_contract():
    head = nn.Sequential(nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(12, 1))
    attend = SelfAttention(12, 3, 4, relative=12, activation="relu", bias=False)
    check_arch(nn.Sequential(Conv1DTower(40, 4, [12], 7), AddPositions(), attend, AttentionPool(12, 2), head), 40)
    block = TransformerBlock(12, {"heads": 3, "key_dim": 4})
    nn.init.normal_(block.attention.out.weight)                      # at its zero start no gradient passes the attention
    check_arch(nn.Sequential(Conv1DTower(40, 4, [12], 7), block, AttentionPool(12, None), nn.Linear(12, 1)), 40)


def test_satori_attention_count():
    conv = nn.Sequential(nn.Conv1d(4, 200, 13, bias=False), nn.BatchNorm1d(200))
    attend = SelfAttention(200, 8, 32, output_dim=100, bias=True, dropout=.2, activation="relu")
    assert sum(map(count_params, (conv, attend, nn.Linear(100, 2)))) == 191_070
    with torch.device("meta"):
        assert sum(map(count_params, (conv, RecurrentBlock(200, 100, 2, bidirectional=True, dropout=.4), attend, nn.Linear(100, 2)))) == 674_270


@fuzz
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_attention_pool_lies_between_mean_and_maximum(channels, kernel, windows, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, channels, kernel * windows)
    y = AttentionPool(channels, kernel)(x).detach()
    mean, top = nn.functional.avg_pool1d(x, kernel), nn.functional.max_pool1d(x, kernel)
    assert (y >= mean - 1e-5).all() and (y <= top + 1e-5).all()


# strands ---------------------------------------------------------------------------------------------------------------

def pair(n=4, length=30, seed=0):
    x = torch.tensor(ohe(random_seqs(n, length, seed=seed))).float()
    return x, torch.tensor(reverse_complement(x.numpy()))


@fuzz
@given(st.sampled_from(["max", "mean"]), st.booleans(), st.booleans(), st.integers(1, 6), st.integers(0, 99))
def test_both_strands_keeps_every_promise_it_declares(aggr, align, swap, channels, seed):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv1d(4, channels, 5), nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, 2, 3))
    x, rc = pair(seed=seed)
    for head, meet in ((None, None), (nn.Conv1d(2, 3, 4), "head"), (nn.Conv1d(2, 3, 4), "body")):
        model = BothStrands(body, head, aggr, align=align, meet=meet, swap_tracks=align and swap).eval()
        word = strand_symmetry(model)
        assert word == ("none" if align and meet == "body" else ("equivariant_tracks" if swap else "equivariant") if align else "invariant")
        if word != "none":
            close(model(rc), model(x).flip(STRANDS[word]))
        check_strands(model, 30)


def test_both_strands_is_two_calls_of_one_body():
    body, head = nn.Sequential(Conv1DTower(30, 4, [5], 7, norm="batch"), nn.Flatten()), DenseBlock(240, 2, hidden=6)
    x, rc = pair()
    for m in (body, head):
        m.eval()
    close(BothStrands(body, head)(x), head(torch.cat([body(x), body(rc)], 1)))
    for aggr, f in {"max": torch.maximum, "mean": lambda a, b: (a + b) / 2}.items():
        one = DenseBlock(120, 2, hidden=6).eval()
        close(BothStrands(body, one, aggr)(x), f(one(body(x)), one(body(rc))))
        close(BothStrands(body, one, aggr, meet="body")(x), one(f(body(x), body(rc))))


def test_invariance_holds_in_training_too_without_dropout():
    "Both strands are normalised together, so that batch norm does not tell them apart"
    model = BothStrands(nn.Sequential(nn.Conv1d(4, 5, 7), nn.BatchNorm1d(5), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()), nn.Linear(5, 1), "mean").train()
    x, rc = pair(16)
    close(model(x), model(rc))


@pytest.mark.parametrize("aggr", ["concat", "max", "mean"])
def test_both_strand_models_keep_the_contract(aggr):
    body = nn.Sequential(Conv1DTower(40, 4, [6], 7, pool="max", pool_kernel=4), nn.Flatten())
    width = body(torch.zeros(1, 4, 40)).shape[1]
    check_arch(BothStrands(body, DenseBlock(width * (2 if aggr == "concat" else 1), 2, hidden=4), aggr), 40, 2)


def test_published_double_stranded_counts():
    floors = dict(channels=[10, 8], kernels=[11, 3], pool=["max", None], pool_kernel=[30, None], pool_stride=[1, None], dropout=.2, norm="batch", order="conv-act-pool-dropout-norm")
    dense = dict(hidden=64, dropout=.2, norm="batch", order="linear-act-dropout-norm")
    tower = Conv1DTower(500, 4, **floors)
    hybrid = BothStrands(tower, nn.Sequential(RecurrentBlock(16, 128, output="last_position"), DenseBlock(128, 1, **dense)), align=False)
    flat = tower.out_channels * tower.output_len
    assert count_params(hybrid) == 83_935
    assert count_params(BothStrands(nn.Sequential(tower, nn.Flatten()), DenseBlock(2 * flat, 1, **dense))) == 471_007
    check_arch(hybrid, 500)


# first weights ---------------------------------------------------------------------------------------------------------

LAYERS = {"lstm": lambda: nn.LSTM(5, 7, 2, bidirectional=True), "gru": lambda: nn.GRU(5, 7), "rnn": lambda: nn.RNN(5, 7), "keras": lambda: KerasLSTM(5, 7, True),
          "torch attention": lambda: nn.MultiheadAttention(6, 2), "attention": lambda: SelfAttention(6, 2, 3), "list": lambda: nn.ParameterList([torch.zeros(6, 4, 3), torch.zeros(3)])}


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"dirac"}))
@pytest.mark.parametrize("name", LAYERS)
def test_every_scheme_on_sequence_layers(name, scheme):
    kw = {"constant": {"val": .5}, "sparse": {"sparsity": .5}}.get(scheme, {})
    if name == "list" and scheme in ("eye", "sparse"):
        with pytest.raises(ValueError, match="cannot fill layer ''"):
            init_weights(LAYERS[name](), scheme, seed=0, **kw)
        return
    a, b = (init_weights(LAYERS[name](), scheme, seed=3, **kw) for _ in range(2))
    for (n, p), q in zip(a.named_parameters(), b.parameters()):
        assert torch.isfinite(p).all() and torch.equal(p, q)
        if "bias" in n:
            assert (p == 0).all(), n


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "keras"])
def test_each_gate_is_drawn_as_if_alone(name):
    layer = init_weights(LAYERS[name](), "orthogonal", seed=0)
    for weight, blocks in weight_blocks(layer).items():
        assert blocks == {"lstm": 4, "keras": 4, "gru": 3, "rnn": 1}[name]
        for gate in layer.get_parameter(weight).detach().chunk(blocks):
            small = gate @ gate.T if gate.shape[0] <= gate.shape[1] else gate.T @ gate
            close(small, torch.eye(len(small)))


def test_scheme_that_fits_nothing_changes_nothing():
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Flatten(), nn.LSTM(4, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="layer '2' with weights"):
        init_weights(model, "dirac", seed=0)
    with pytest.raises(ValueError, match="no LSTM"):
        init_weights(model, seed=0, layer="0", forget_bias=1.)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@fuzz
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 12), *[st.sampled_from(["left", "centre", "right"])] * 2, st.floats(0, 1), st.integers(0, 9))
def test_motif_filters_of_both_strands_see_both_strands(widths, width, align, motif_align, outside, seed):
    gen = np.random.default_rng(seed)
    ppms = [gen.dirichlet(np.ones(4), w).T for w in widths]
    conv = nn.Conv1d(4, 8, width)
    old = conv.weight.detach().clone()
    names = init_from_motifs(conv, ppms, align=align, too_long="crop", motif_align=motif_align, both_strands=True, outside=outside)
    assert names == [n for i in range(len(ppms)) for n in (f"motif_{i}", f"motif_{i}_rc")]
    for i, ppm in enumerate(p for m in ppms for p in (m, m[::-1, ::-1])):
        how = motif_align if ppm.shape[1] > width else align
        used, room, spare = min(ppm.shape[1], width), max(width - ppm.shape[1], 0), max(ppm.shape[1] - width, 0)
        starts, firsts = ({"left": [0], "right": [n], "centre": [n // 2, n - n // 2]}[how] for n in (room, spare))
        fits = [(s, f) for s in starts for f in firsts if np.allclose(conv.weight[i, :, s:s + used].detach() / 4, ppm[:, f:f + used], atol=1e-6)]
        assert fits
        s = fits[0][0]
        close(conv.weight[i, :, :s].detach(), old[i, :, :s] * outside) if s else None
        close(conv.weight[i, :, s + used:].detach(), old[i, :, s + used:] * outside) if s + used < width else None
    assert torch.equal(conv.weight[2 * len(ppms):], old[2 * len(ppms):])


def test_a_layer_of_both_strands_gets_each_motif_once():
    assert init_from_motifs(BiConv1D(4, 3, 5), [np.full((4, 5), .25)] * 3, both_strands=True) == ["motif_0", "motif_1", "motif_2"]
