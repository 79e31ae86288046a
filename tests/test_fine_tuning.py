"""Fine-tuning: what is frozen stays to the last bit, heads and lengths of every architecture, files that are refused, and that it helps."""
import copy
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_zoo import BUILDS, WORDS, one_hot, small
from torch import nn

from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import random_seqs
from eugene.models.basic import check_arch
from eugene.models.saving import load_model, save_model
from eugene.training.configs import from_config, load_config, save_config, to_config
from eugene.training.fine_tuning import FineTuning, change_length, fine_tune, find_head, load_run, load_weights, matching, replace_head
from eugene.training.fit import fit_dataset
from eugene.training.sequence_module import SequenceModule

every = pytest.mark.parametrize(("name", "variant"), BUILDS, ids=WORDS)
CONFIG = {"arch": {"name": "CNN", "input_len": 30, "conv": {"channels": 8, "kernels": 7, "norm": "batch", "pool": "max", "pool_kernel": 24, "order": "conv-norm-act-pool"},
                   "dense": {"hidden": 6, "norm": "batch"}}, "module": {"lr": .01}}
QUICK = dict(batch_size=20, epochs=2, device="cpu", progress=False)


def data(n=120, targets=1, seed=0, length=30):
    seqs = random_seqs(n, length, seed=seed)
    y = np.array([[s.count("A") / 5 - k * s.count("CG") for k in range(targets)] for s in seqs])
    ds = make_dataset(seqs, targets=y, target_names=[f"t{k}" for k in range(targets)])
    ds["split"] = "sequence", np.repeat(["train", "val"], [n - 40, 40])
    return ds


def state(module): return {k: v.clone() for k, v in module.state_dict().items()}


def changed(a, b): return {k for k in a if not torch.equal(a[k], b[k])}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "base"
    return fit_dataset(from_config(CONFIG, seed=0), data(seed=1), out, **QUICK), out


# ---------------------------------------------------------------- heads and lengths of every architecture

@every
def test_a_new_head_for_every_architecture(name, variant, tmp_path):
    model, length = small(name, variant)
    if name in ("BPNet", "ChromBPNet"):
        with pytest.raises(ValueError, match="more than one kind of answer"): find_head(model)
        return
    x = one_hot(3, length)
    with torch.no_grad(): before = model.eval()(x)
    new = replace_head(model, 3, keep={1: 0}, seed=4).eval()
    with torch.no_grad(): after, old = new(x), model(x)
    assert after.shape == (3, 3, *before.shape[2:]) and torch.equal(old, before)
    assert torch.allclose(after[:, 1], before[:, 0], atol=1e-5) and not torch.allclose(after[:, 0], before[:, 0])
    head = find_head(model)
    assert changed({k: v for k, v in state(model).items() if not k.startswith(head)}, state(new)) == set()
    again = load_model(save_model(new, tmp_path / "new"))
    with torch.no_grad(): assert torch.equal(again(x), after)
    if after.ndim == 2: check_arch(new, length, 3)


@every
def test_another_length_where_the_weights_allow_it(name, variant):
    model, length = small(name, variant)
    longer = 2 * length
    free = {"RNN", "Hybrid", "dsHybrid", "DeepBind", "Kopp21CNN", "Satori", "Satori-RNN", "Basenji"}
    if name in {"BPNet", "ChromBPNet"}: return # their window is part of the model; see the next test
    if name not in free:
        with pytest.raises(ValueError, match=f"cannot take {longer} bp: .*has shape"): change_length(model, longer)
        return
    new = change_length(model, longer)
    assert changed(state(model), state(new)) == set() and new.input_len == longer and new.training == model.training
    with torch.no_grad(): assert new.eval()(one_hot(2, longer)).shape[:2] == (2, model.output_dim)
    with pytest.raises(ValueError, match=f"length|{length}"): model(one_hot(2, longer))


def test_a_profile_model_of_another_length_and_a_named_head():
    model, length = small("BPNet", "published")
    assert change_length(model, length + 20)(one_hot(2, length + 20)).profile.shape[-1] == 60
    counts = replace_head(model, 2, head="counts")
    assert counts(one_hot(2, length)).counts.shape == (2, 2) and counts(one_hot(2, length)).profile.shape == model(one_hot(2, length)).profile.shape


def test_precision_and_frozen_state_survive_a_change():
    model, length = small("Hybrid", "published")
    model.double(); next(model.parameters()).requires_grad_(False)
    for new in (replace_head(model, 2), change_length(model, length + 4)):
        assert {p.dtype for p in new.parameters()} == {torch.float64} and not next(new.parameters()).requires_grad


# ---------------------------------------------------------------- frozen means frozen

def test_frozen_parts_and_their_batch_norms_stay_to_the_last_bit(base, tmp_path):
    run = fine_tune(base[1], data(seed=2), tmp_path / "a", freeze="conv", **QUICK, val_check_interval=.5)
    moved = changed(state(base[0].module), state(run.module))
    assert moved and all(k.startswith("arch.dense") for k in moved) and "arch.dense.hidden0.norm.running_mean" in moved
    assert all(p.requires_grad for p in run.module.parameters())


def test_without_the_callback_the_batch_norm_would_drift(base, tmp_path):
    "The reason for the callback: freezing parameters alone lets running averages go on"
    module = copy.deepcopy(base[0].module)
    for name, p in module.named_parameters(): p.requires_grad_(not name.startswith("arch.conv"))
    run = fit_dataset(module, data(seed=2), tmp_path / "a", **QUICK)
    assert "arch.conv.0.norm.running_mean" in changed(state(base[0].module), state(run.module))


def test_a_frozen_batch_norm_normalises_by_what_it_knew(base):
    module = copy.deepcopy(base[0].module).train()
    for p in module.arch.conv.parameters(): p.requires_grad_(False)
    FineTuning({}).on_train_epoch_start(type("T", (), {"current_epoch": 0}), module)
    assert not module.arch.conv[0].norm.training and module.arch.dense.hidden0.norm.training and module.arch.conv.training
    x = one_hot(5, 30)
    with torch.no_grad(): assert torch.equal(module.arch.conv(x), base[0].module.arch.conv(x))


def test_biases_alone(base, tmp_path):
    "A pattern reaches parameters of many layers; a batch norm with one free parameter goes on counting"
    run = fine_tune(base[1], data(seed=2), tmp_path / "a", freeze="*.weight", **QUICK)
    moved = {k for k in changed(state(base[0].module), state(run.module)) if "running" not in k and "num_batches" not in k}
    assert moved <= {k for k in state(run.module) if k.endswith("bias")} and "arch.dense.output.bias" in moved


def test_unfreezing_from_an_epoch_on(base, tmp_path):
    short = fine_tune(base[1], data(seed=2), tmp_path / "a", freeze="conv", unfreeze={3: "conv"}, patience=None, **QUICK | {"epochs": 2})
    long = fine_tune(base[1], data(seed=2), tmp_path / "b", freeze="conv", unfreeze={3: "conv"}, patience=None, **QUICK | {"epochs": 5})
    assert not any(k.startswith("arch.conv") for k in changed(state(base[0].module), state(short.module)))
    last = torch.load(tmp_path / "b" / "best.ckpt", weights_only=True)["state_dict"]
    if long.manifest["best_epoch"] >= 3: assert "arch.conv.0.conv.weight" in changed(state(base[0].module), last)
    assert long.manifest["config"]["fine_tuning"]["unfreeze"]["3"] == [k for k in matching(base[0].module, "conv")]


def test_step_sizes_by_layer(base, tmp_path):
    "A layer whose step is nothing does not move, although it is not frozen"
    run = fine_tune(base[1], data(seed=2), tmp_path / "a", settings={"lr": {"conv": 0., "default": .01}}, **QUICK)
    moved = changed(state(base[0].module), state(run.module))
    assert "arch.dense.output.weight" in moved and "arch.conv.0.conv.weight" not in moved
    with pytest.raises(ValueError, match="no parameter belongs to"): fine_tune(base[1], data(seed=2), tmp_path / "b", settings={"lr": {"convs": 0., "default": .01}}, **QUICK)


# ---------------------------------------------------------------- from the old task to the new

def test_a_new_number_of_targets_and_length(tmp_path):
    model = SequenceModule(small("DeepBind", "published")[0], lr=.01)
    run = fine_tune(model, data(targets=3, length=50), tmp_path / "a", freeze="*", **QUICK)
    assert run.module.arch.input_len == 50 and changed({k: v for k, v in state(model).items() if not k.startswith("arch.dense.output")}, state(run.module)) == set()
    with torch.no_grad(): assert run.module(one_hot(2, 50)).shape == (2, 3)
    assert run.manifest["config"]["fine_tuning"]["new_head"] == "arch.dense.output"
    again = load_run(tmp_path / "a") if "name" in run.manifest["config"]["arch"] else None
    assert again is None or changed(state(again), state(run.module)) == set()


def test_kept_outputs_begin_where_they_were(base, tmp_path):
    two = fine_tune(base[1], data(targets=2, seed=3), tmp_path / "a", new_head={"keep": {1: 0}}, settings={"lr": 0.}, freeze="conv", **QUICK | {"epochs": 1})
    for name in ("weight", "bias"): assert torch.equal(getattr(two.module.arch.dense.output, name)[1], getattr(base[0].module.arch.dense.output, name)[0])


def test_the_manifest_names_source_and_weights(base, tmp_path):
    run = fine_tune(base[1], data(seed=2), tmp_path / "a", freeze="conv", **QUICK)
    record = json.loads((tmp_path / "a" / "manifest.json").read_text())["config"]["fine_tuning"]
    assert record == run.module.config["fine_tuning"] and record["from"] == "base" and record["freeze"] == matching(run.module, "conv")
    assert str(base[1].parent) not in json.dumps(record)
    taken = fine_tune(base[1], data(seed=2), tmp_path / "a", freeze="conv", reuse=True, **QUICK)
    assert taken.manifest == run.manifest
    with pytest.raises(ValueError, match="fine_tuning.freeze"): fine_tune(base[1], data(seed=2), tmp_path / "a", freeze="dense", reuse=True, **QUICK)
    other = fit_dataset(from_config(CONFIG, seed=9), data(seed=1), tmp_path / "other", **QUICK)
    with pytest.raises(ValueError, match="fine_tuning.weights"): fine_tune(other.module, data(seed=2), tmp_path / "a", freeze="conv", reuse=True, **QUICK)


def test_the_source_is_left_alone(base, tmp_path):
    module = base[0].module
    before, config, flags = state(module), copy.deepcopy(to_config(module)), [p.requires_grad for p in module.parameters()]
    fine_tune(module, data(targets=2, seed=2), tmp_path / "a", freeze="conv", settings={"lr": .1}, **QUICK)
    assert changed(before, state(module)) == set() and to_config(module) == config and [p.requires_grad for p in module.parameters()] == flags


def test_a_fine_tuned_module_has_a_config_that_builds_it(base, tmp_path):
    run = fine_tune(base[1], data(targets=2, seed=2), tmp_path / "a", settings={"lr": {"conv": .001, "default": .01}, "scheduler": "cosine"}, **QUICK)
    path = save_config(to_config(run.module), tmp_path / "again.yaml")
    twin = load_weights(from_config(path), tmp_path / "a" / "best.ckpt")
    assert changed(state(twin), state(run.module)) == set() and twin.settings == run.module.settings and "fine_tuning" not in load_config(path)


def test_same_seed_same_weights(base, tmp_path):
    one, two, three = (fine_tune(base[1], data(targets=2, seed=2), tmp_path / str(i), seed=s, **QUICK).module for i, s in enumerate((0, 0, 1)))
    assert changed(state(one), state(two)) == set() and changed(state(one), state(three))


# ---------------------------------------------------------------- files

class Evil:
    def __reduce__(self): return (print, ("this must never be printed",))


def test_no_pickle_is_run(base, tmp_path, capsys):
    for name, thing in {"a.pt": {"state_dict": Evil()}, "b.pt": Evil()}.items():
        torch.save(thing, tmp_path / name)
        with pytest.raises(ValueError, match="could run any code|no weights by name"): load_weights(base[0].module, tmp_path / name)
    (tmp_path / "c.ckpt").write_bytes(pickle.dumps(Evil(), 2))
    with pytest.raises(ValueError, match="no checkpoint|could run any code"): load_weights(base[0].module, tmp_path / "c.ckpt")
    assert "never" not in capsys.readouterr().out


def test_a_foreign_checkpoint_is_refused_with_what_differs(base, tmp_path):
    torch.save(small("DeepSTARR", "published")[0].state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"not those of this CNN: .*(is missing|has no place).* and \d+ more"): load_weights(base[0].module, tmp_path / "other.pt")
    before = state(base[0].module)
    part = {k: v for k, v in before.items() if "output" not in k}
    torch.save(part, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="arch.dense.output.bias is missing; arch.dense.output.weight is missing"): load_weights(base[0].module, tmp_path / "part.pt")
    assert changed(before, state(base[0].module)) == set()


def test_weights_from_all_kinds_of_files(base, tmp_path):
    module = base[0].module
    save_file({k: v.contiguous() for k, v in module.arch.state_dict().items()}, tmp_path / "w.safetensors")
    torch.save(module.state_dict(), tmp_path / "w.pt")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt", base[1] / "best.ckpt"):
        assert changed(state(load_weights(from_config(CONFIG, seed=3), path)), state(module)) == set()
        assert changed(state(load_weights(from_config(CONFIG, seed=3).arch, path)), state(module.arch)) == set()


# ---------------------------------------------------------------- does it help?

@pytest.mark.slow
def test_fine_tuning_beats_training_from_nothing(tmp_path):
    "Simulated: 60 sequences of a related task, five seeds; the chapter draws this"
    from eugene.etl.loading import loader
    from eugene.etl.simulation import Plant, simulate
    from eugene.training.metrics import r2
    def tissue(effects, n, seed):
        ds = simulate(n + 1060, 60, [Plant(w, e, .4) for w, e in zip(("CCAATCA", "TGACGTCA", "GGGCGGG"), effects)], noise=.3, seed=seed).ds
        ds["split"] = "sequence", np.repeat(["train", "val", "test"], [n, 60, 1000])
        return ds
    def held_out(run, ds):
        x, y, *_ = next(iter(loader(ds, 1000, "test")))
        with torch.no_grad(): return float(r2(y.numpy(), run.module(x).numpy())[0])
    config = {"arch": {"name": "CNN", "input_len": 60, "conv": {"channels": 24, "kernels": 8, "pool": "max", "pool_kernel": 53}, "dense": {"hidden": 16}}, "module": {"lr": .01}}
    plan = dict(batch_size=10, device="cpu", progress=False)
    start = fit_dataset(from_config(config), tissue((1.5, 1., -1.), 2500, 1), tmp_path / "base", epochs=9, **plan | {"batch_size": 64})
    gains = []
    for seed in range(5):
        ds = tissue((-1., 2., .5), 60, 10 + seed)
        alone = fit_dataset(from_config(config, seed=seed), ds, tmp_path / "alone", epochs=60, patience=15, seed=seed, **plan)
        tuned = fine_tune(start.module, ds, tmp_path / "tuned", new_head=True, freeze="conv", epochs=20, patience=5, seed=seed, **plan)
        gains.append(held_out(tuned, ds) - held_out(alone, ds))
    assert np.mean(gains) > .1 and min(gains) > 0, gains


def test_a_run_put_together_by_hand_is_opened_by_its_folder(tmp_path):
    "What the README and the first tutorial do: build_arch, SequenceModule, fit_dataset, and later the folder"
    import eugene as eu
    ds = eu.split_random(eu.simulate(n=80, length=40, plants=[eu.Plant("TATAAA", 1.)], seed=0).ds, seed=0)
    arch = eu.init_weights(eu.build_arch("CNN", input_len=40, conv={"channels": [4], "kernels": 5}, dense={}), seed=0)
    run = eu.fit_dataset(eu.SequenceModule(arch, lr=.01), ds, tmp_path / "run", epochs=1, device="cpu", progress=False)
    again = eu.load_run(tmp_path / "run")
    assert again.settings["lr"] == .01 and (eu.predict(again, ds) == eu.predict(run.module, ds)).all()
    assert eu.fine_tune(tmp_path / "run", ds, tmp_path / "tuned", epochs=1, device="cpu", progress=False).manifest["config"]["fine_tuning"]["from"]
