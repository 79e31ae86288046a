"One contract for every architecture of the zoo, in small editions; real sizes are counted without memory."
import copy
import json

import pytest
import torch
from torch import nn

from eugene.layers.strands import STRANDS, check_strands
from eugene.models.basic import check_arch, count_params
from eugene.models.profile import OneHead
from eugene.models.saving import load_model, save_model
from eugene.models.summary import summary
from eugene.models.zoo import ARCHITECTURES, available, build_arch

CONV, HEAD = {"channels": [6, 4], "kernels": [7, 3], "pool": "max", "pool_kernel": 2, "norm": "batch"}, {"hidden": 5, "activation": "gelu"}
TRUNK = {"filters": 6, "layers": 2, "kernel": 7}

# A small edition of each build: input length, then arguments that make it light. An architecture without a row here fails.
SMALL = {
    "FCN": (40, {"dense": HEAD}),
    "CNN": (40, {"conv": CONV, "dense": HEAD}),
    "RNN": (30, {"recurrent": {"hidden_dim": 6}, "dense": HEAD}),
    "Hybrid": (40, {"conv": CONV, "recurrent": {"hidden_dim": 6}, "dense": HEAD}),
    "Inception": (30, {"channels": (8, 12), "dense": HEAD}),
    "dsFCN": (40, {"dense": HEAD}),
    "dsCNN": (60, {"dense": HEAD}),
    "dsHybrid": (60, {"recurrent": {"hidden_dim": 6}, "dense": HEAD}),
    "DeepBind": (41, {}),
    "ResidualBind": (41, {"filters": 8, "hidden": 8}),
    "Jores21CNN": (60, {"filters": 6, "layers": 2}),
    "DeepSTARR": (64, {"filters": 8}),
    "Kopp21CNN": (200, {}),
    "DeepSEA": (200, {"channels": (8, 8, 12), "hidden": 9, "output_dim": 5}),
    "Basset": (220, {"channels": (8, 8, 8), "hidden": (9, 7), "output_dim": 5}),
    "FactorizedBasset": (220, {"channels": 8, "hidden": 9, "output_dim": 5}),
    "DanQ": (120, {"filters": 8, "units": 6, "hidden": 9, "output_dim": 5}),
    "DanQ-JASPAR": (120, {"filters": 8, "units": 6, "hidden": 9, "output_dim": 5}),
    "DeepMEL": (120, {"filters": 8, "units": 6, "hidden": 9, "output_dim": 5}),
    "Satori": (120, {"filters": 8, "heads": 2, "features": 9}),
    "Satori-RNN": (120, {"filters": 8, "heads": 2, "features": 9}),
    "scBasset": (400, {"channels": 8, "bottleneck": 6, "output_dim": 5}),
    "Basenji": (512, {"filters": (6, 8), "hidden": 6, "layers": 3, "head": 9, "crop": 8, "output_dim": 5}),
    "BPNet": (200, {"output_len": 60, "trunk": TRUNK, "profile_kernel": 11}),
    "ChromBPNet": (200, {"output_len": 60, "main": {**TRUNK, "padding": "valid"}, "bias": {**TRUNK, "padding": "valid"}, "profile_kernel": 11}),
}
BUILDS = [(name, variant) for name, variants in ARCHITECTURES.items() for variant in variants]
WORDS = [f"{name}-{variant}" for name, variant in BUILDS]
every = pytest.mark.parametrize(("name", "variant"), BUILDS, ids=WORDS)


@pytest.fixture(autouse=True)
def same_first_weights():
    "Small networks by chance can be dead; these are the same in every run, and the global stream is left as it was"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def small(name, variant):
    length, args = SMALL[name]
    return build_arch(name, variant, input_len=length, **args), length


def single(model, x):
    "The model with one output, or each head of a model with several"
    with torch.no_grad(): y = model.eval()(x)
    return [model] if isinstance(y, torch.Tensor) else [OneHead(model, head) for head in y._fields]


def one_hot(n, length, seed=0):
    letters = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))
    return nn.functional.one_hot(letters, 4).transpose(1, 2).float()


def test_no_row_is_left_over(): assert set(SMALL) == set(ARCHITECTURES)


@every
def test_contract(name, variant):
    "Shape, batch of one, determinism, state, and a gradient to every parameter; with several heads, to every parameter through one of them"
    torch.manual_seed(0)
    model, length = small(name, variant)
    models = single(model, one_hot(2, length))
    for m in models:
        with torch.no_grad(): shape = tuple(m.eval()(one_hot(2, length)).shape[1:])
        if len(models) == 1: check_arch(m, length, shape)
    if len(models) > 1:
        y = model.train()(one_hot(3, length).requires_grad_())
        sum(part.square().sum() for part in y).backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        model.eval()
        with torch.no_grad():
            batch, alone = model(one_hot(4, length)), model(one_hot(4, length)[:1])
        for a, b in zip(batch, alone): torch.testing.assert_close(a[:1], b, rtol=1e-4, atol=1e-5)


@every
def test_card_and_real_size(name, variant):
    row = ARCHITECTURES[name][variant]
    with torch.device("meta"): model = build_arch(name, variant, input_len=row.card.input_len)
    assert count_params(model) == row.card.n_params
    with torch.no_grad(): y = model.eval()(torch.zeros(1, 4, row.card.input_len, device="meta"))
    assert all(part.shape[0] == 1 for part in ([y] if isinstance(y, torch.Tensor) else y))
    if isinstance(y, torch.Tensor): # the last line of the table is what comes out
        assert row.card.table[-1][1].replace(",", "").split(" x ")[0] == str(y.shape[1]), (row.card.table[-1], y.shape)


@every
def test_length_matters(name, variant):
    "Another input length builds another network, or is refused with a ValueError; it is never ignored"
    length, args = SMALL[name]
    longer = length * 2
    model = build_arch(name, variant, input_len=longer, **args)
    with torch.no_grad(): model.eval()(one_hot(1, longer))
    with pytest.raises(ValueError): model(one_hot(1, length))
    with pytest.raises(ValueError): build_arch(name, variant, input_len=0, **args)


@every
def test_wrong_input_is_refused_before_any_compute(name, variant):
    model, length = small(name, variant)
    def compute(*_): raise AssertionError("computed")
    for part in model.modules():
        if part is not model: part.register_forward_pre_hook(compute)
    wrong = {"length": torch.zeros(2, 4, length + 1), "alphabet": torch.zeros(2, 5, length), "order of axes": torch.zeros(2, length, 4),
             "no batch": torch.zeros(4, length), "type": torch.zeros(2, 4, length, dtype=torch.uint8)}
    for what, x in wrong.items():
        with pytest.raises(ValueError) as error: model(x)
        assert "takes one-hot arrays" in str(error.value) or "computes with floats" in str(error.value), what


@every
def test_declared_strand_holds(name, variant):
    model, length = small(name, variant)
    for m in single(model, one_hot(2, length)):
        m.strand = getattr(model, "strand", "none")
        assert m.strand in STRANDS
        check_strands(m, length)


@every
def test_saved_and_loaded(name, variant, tmp_path):
    model, length = small(name, variant)
    back, x = load_model(save_model(model.eval(), tmp_path / "model")), one_hot(3, length)
    with torch.no_grad(): y, z = model(x), back(x)
    for a, b in zip(*([v] if isinstance(v, torch.Tensor) else v for v in (y, z))): assert torch.equal(a, b)
    assert json.dumps(back.arch_config) == json.dumps(model.arch_config) # lists for tuples


@every
def test_summary_adds_up(name, variant):
    model, length = small(name, variant)
    before = copy.deepcopy(model.state_dict())
    s = summary(model)
    assert s.n_params == count_params(model) == sum(r.n_params for r in s.rows)
    assert s.macs == sum(r.macs for r in s.rows) > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_listing():
    rows = available()
    assert [(r.name, r.variant) for r in rows] == BUILDS
    assert max(len(line) for line in repr(rows).splitlines()) < 140


TWO = ("dsCNN", "published"), ("Jores21CNN", "published")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), TWO)
def test_export(name, variant):
    model, length = small(name, variant)
    x = one_hot(3, length)
    program = torch.export.export(model.eval(), (x,), dynamic_shapes={"input" if name == "dsCNN" else "x": {0: torch.export.Dim("n", min=2)}})
    with torch.no_grad(): torch.testing.assert_close(program.module()(one_hot(5, length, 1)), model(one_hot(5, length, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), TWO)
def test_compile(name, variant):
    model, length = small(name, variant)
    x = one_hot(3, length)
    with torch.no_grad(): torch.testing.assert_close(torch.compile(model.eval())(x), model(x), rtol=1e-4, atol=1e-5)
