"""Configs: what a file says is what is built, the round trip is exact, and the files of the use cases build the models they name."""
import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eugene.etl import augmentation
from eugene.etl.seqdata import join_assays, make_dataset
from eugene.etl.sequences import random_seqs
from eugene.etl.splits import split_random
from eugene.models.basic import count_params
from eugene.models.zoo import ARCHITECTURES, build_arch
from eugene.training.configs import MODULES, TRANSFORMS, allowed_keys, check_config, from_config, load_config, make_transforms, save_config, to_config
from eugene.training.fit import fit_dataset
from eugene.training.sequence_module import OPTIMIZERS, SCHEDULERS

HOME = Path(__file__).resolve().parents[1] / "use_cases" / "configs"

# Trainable parameters each file states, from the supplement of Klie et al. 2023 or the authors' own code; counted by hand where those have none.
COUNTS = {
    "jores21/cnn": 1_883_649, "jores21/hybrid": 1_925_633, "jores21/deepstarr": 468_865, "jores21/deepstarr_eugene2023": 5_259_075,
    "jores21/jores21_cnn": 1_825_921, "jores21/jores21_cnn_eugene2023": 5_355_777, "jores21/smoke": None,
    "jores21/best": 97_570,
    "ray13/deepbind_st": 2_225, "ray13/deepbind_mt": 1_238_249, "ray13/smoke": None,
    "jund/dscnn": 471_007, "jund/dshybrid": 83_935, "jund/dsfcn": 1_058_049, "jund/kopp21_cnn": 743, "jund/kopp21_cnn_eugene2023": 743, "jund/smoke": None,
}
FILES = pytest.mark.parametrize("name", COUNTS)


def on_meta(name, **overrides):
    with torch.device("meta"): return build_arch(**{**load_config(HOME / f"{name}.yaml")["arch"], **overrides})


# ---------------------------------------------------------------- the files of the use cases

def test_no_file_is_without_a_row():
    found = {f"{p.parent.name}/{p.stem}" for p in HOME.glob("*/*.yaml")}
    assert {name for name in found if not name.endswith("/published")} == set(COUNTS)


@FILES
def test_each_file_builds_the_model_it_states(name):
    text, count = (HOME / f"{name}.yaml").read_text(), count_params(on_meta(name))
    if COUNTS[name] is None: return
    assert count == COUNTS[name]
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# ") and all(any(word in line for line in head) for word in ("Source:", "Parameters:"))
    assert int(re.search(r"Parameters: ([\d,]+)", text)[1].replace(",", "")) == count


@pytest.mark.parametrize("name", ["jores21/cnn", "jores21/hybrid", "jores21/jores21_cnn", "jores21/jores21_cnn_eugene2023", "jores21/deepstarr_eugene2023",
                                  "jund/dscnn", "jund/dshybrid", "jund/dsfcn", "jund/kopp21_cnn", "jund/kopp21_cnn_eugene2023"])
def test_each_file_says_what_its_card_says(name):
    "Where a card has the settings of the same source, the two must agree"
    config = load_config(HOME / f"{name}.yaml")
    card = ARCHITECTURES[config["arch"]["name"]][config["arch"]["variant"]].card
    def first(value): return value if not isinstance(value, str) else float(re.match(r"[\d.]+", value)[0])
    assert config["fit"]["batch_size"] == first(card.training["batch_size"]) and config["fit"]["epochs"] == first(card.training["epochs"])
    assert config["fit"]["patience"] == first(card.training["early stopping patience"]) and config["module"]["lr"] == card.training["lr"]
    assert ("amsgrad" in str(card.training["optimizer"])) == bool(config["module"].get("optimizer_kwargs", {}).get("amsgrad"))


def test_what_ran_on_rnacompete():
    single, multi = (load_config(HOME / f"ray13/{name}.yaml") for name in ("deepbind_st", "deepbind_mt"))
    assert (single["fit"]["batch_size"], single["fit"]["epochs"], single["fit"]["patience"], single["module"]["lr"]) == (100, 25, 3, .0005)
    assert (multi["fit"]["batch_size"], multi["fit"]["epochs"], multi["fit"]["patience"], multi["module"]["lr"]) == (1024, 100, 5, .0005)
    assert single["module"].get("scheduler") is multi["module"].get("scheduler") is None
    assert (single["arch"]["conv"]["dropout"], multi["arch"]["conv"]["dropout"], multi["arch"]["output_dim"]) == (.5, .25, 233)


@pytest.mark.parametrize(("name", "other", "count"), [
    ("jores21/cnn", "eugene-2023", 1_883_649), ("jores21/hybrid", "eugene-2023", 1_925_633), ("jund/dscnn", "eugene-2023", 471_007),
    ("jund/dsfcn", "eugene-2023", 1_058_049), ("jund/dshybrid", "eugene-2023", 83_935), ("jores21/deepstarr_eugene2023", "eugene-2023", 5_259_075)])
def test_the_other_variant_by_a_word(name, other, count):
    assert count_params(on_meta(name, variant=other)) == count


def test_twins_differ_where_they_say():
    "Same number, other network: the two builds of Kopp21CNN and of dsHybrid do not give the same answers"
    x = torch.nn.functional.one_hot(torch.randint(4, (3, 500), generator=torch.Generator().manual_seed(0)), 4).mT.float()
    for name in ("jund/kopp21_cnn", "jund/dshybrid"):
        one, two = (from_config(HOME / f"{name}.yaml", variant=v).eval() for v in ("published", "eugene-2023"))
        if name.endswith("dshybrid"): two.load_state_dict(one.state_dict())
        with torch.no_grad(): assert not torch.allclose(one(x), two(x))


def test_the_recipe_for_both_assays_trains(tmp_path):
    "Two targets with holes, the file's own augmentations, and a network that promises nothing about the other strand"
    config = load_config(HOME / "jores21/best.yaml")
    seqs = random_seqs(96, 170, seed=0)
    leaf, proto = (make_dataset(seqs[rows], y, target_names=["enrichment"]) for rows, y in ((slice(64), [float(s.count("A")) for s in seqs[:64]]), (slice(32, 96), [float(s.count("C")) for s in seqs[32:]])))
    ds = split_random(join_assays({"leaf": leaf, "protoplast": proto}), seed=0)
    assert (ds.sizes["sequence"], int(ds["targets"].isnull().sum())) == (96, 64)
    module = from_config(config)
    run = fit_dataset(module, ds, tmp_path, device="cpu", progress=False, **config["fit"] | {"epochs": 1, "batch_size": 16, "transforms": make_transforms(config["fit"]["transforms"])})
    assert run.history["val_loss"].notna().all() and all(not torch.equal(v, w) for v, w in zip(module.parameters(), run.module.parameters()))
    assert not {t["name"] for t in config["fit"]["transforms"]} & {"RandomRC"}


@pytest.mark.parametrize("name", [n for n in COUNTS if n.startswith(("ray13", "jund"))])
def test_files_predict(name):
    module = from_config(HOME / f"{name}.yaml").eval()
    arch = to_config(module)["arch"]
    with torch.no_grad(): assert module(torch.zeros(2, 4, arch["input_len"])).shape == (2, arch["output_dim"])


# ---------------------------------------------------------------- round trips

conv = st.fixed_dictionaries({"channels": st.lists(st.integers(1, 6), min_size=1, max_size=2), "kernels": st.integers(1, 7)},
                             optional={"dropout": st.sampled_from([0.0, .1, .25]), "norm": st.sampled_from(["batch", None]), "padding": st.sampled_from(["same", "valid"]),
                                       "pool": st.just("max"), "pool_kernel": st.just(2)}).filter(lambda c: ("pool" in c) == ("pool_kernel" in c))
arch = st.fixed_dictionaries({"name": st.sampled_from(["CNN", "dsCNN"]), "input_len": st.integers(30, 50), "conv": conv, "dense": st.fixed_dictionaries({}, optional={"hidden": st.integers(1, 5)})},
                             optional={"output_dim": st.integers(1, 3), "variant": st.just("published")})
init = st.fixed_dictionaries({}, optional={"scheme": st.sampled_from(["kaiming_normal", "xavier_uniform", {"name": "normal", "std": .01}]), "first_layer": st.just("xavier_normal")})
module = st.fixed_dictionaries({}, optional={"task": st.sampled_from(["regression", "binary"]), "optimizer": st.sampled_from(sorted(OPTIMIZERS)), "lr": st.floats(1e-6, 1.0),
                                             "scheduler": st.sampled_from([None, *(s for s in SCHEDULERS if s != "multistep")]), "class": st.just("SequenceModule")}) # a profile model: tests/test_training_seams.py
augment = st.lists(st.sampled_from(["RandomRC", {"name": "RandomRC", "p": .25}, {"name": "Mutate", "rate": .01}, {"name": "Noise"}, {"name": "Insert", "max_len": 3}]), max_size=3)
fit = st.fixed_dictionaries({}, optional={"epochs": st.integers(1, 99), "batch_size": st.integers(1, 4096), "patience": st.one_of(st.none(), st.integers(0, 9)), "transforms": augment,
                                          "gradient_clip_val": st.floats(0, 10), "unknown": st.sampled_from(["zero", "uniform"]), "seed": st.integers(0, 9)})
whole = st.fixed_dictionaries({"arch": arch}, optional={"init": init, "module": module, "fit": fit})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=whole, seed=st.integers(0, 5))
def test_load_build_save_load(tmp_path, config, seed):
    untouched = copy.deepcopy(config)
    path = save_config(config, tmp_path / "one.yaml", overwrite=True)
    loaded = load_config(path)
    assert loaded == check_config(config) and config == untouched
    built = from_config(path, seed=seed)
    again = save_config(to_config(built), tmp_path / "two.yaml", overwrite=True)
    assert load_config(again) == loaded
    twin = from_config(again, seed=seed)
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in built.state_dict().items()) and twin.settings == built.settings
    if list(built.parameters()): assert any(not torch.equal(v, w) for v, w in zip(built.parameters(), from_config(again, seed=seed + 1).parameters()))


@pytest.mark.parametrize("name", [n for n in COUNTS if not n.startswith("jores21")])
def test_files_of_the_use_cases_round_trip(name, tmp_path):
    loaded = load_config(HOME / f"{name}.yaml")
    assert load_config(save_config(to_config(from_config(loaded)), tmp_path / "again.yaml")) == loaded


def test_a_module_made_by_hand_has_a_config(tmp_path):
    made = MODULES["SequenceModule"](build_arch("DeepSTARR", input_len=64, filters=8), task="binary", optimizer="sgd", lr=.1, optimizer_kwargs={"momentum": .9})
    twin = from_config(save_config(to_config(made), tmp_path / "made.yaml"))
    assert str(twin.arch) == str(made.arch) and twin.settings == made.settings


# ---------------------------------------------------------------- augmentations

def test_every_augmentation_has_a_name():
    "The table is the chapter: every transform with arguments of its own, but Compose, which a list stands for"
    kinds = {k: v for k, v in vars(augmentation).items() if isinstance(v, type) and augmentation.Transform in v.__mro__ and v not in (augmentation.Transform, augmentation.Compose)}
    assert TRANSFORMS == kinds


def test_a_list_is_what_the_loader_takes():
    from eugene.etl.loading import loader
    ds = make_dataset(random_seqs(64, 20, seed=0))
    plain = next(iter(loader(ds, 64))).x
    turned = next(iter(loader(ds, 64, transforms=make_transforms([{"name": "RandomRC", "p": 1.0}])))).x
    assert torch.equal(turned, plain.flip(1, 2))


@pytest.mark.parametrize(("change", "message"), [
    ({"fit": {"transforms": [{"name": "RandomRCC"}]}}, "section `fit` of x.yaml: .*Did you mean 'RandomRC'"),
    ({"fit": {"transforms": [{"name": "RandomRC", "prob": .5}]}}, "section `fit` of x.yaml: .*'prob'"),
    ({"fit": {"transforms": {"name": "RandomRC"}}}, "should be a list"),
    ({"fit": {"transforms": [{"name": "Insert", "max_len": -1}]}}, "section `fit` of x.yaml: Insert of `transforms`: `max_len` is -1"),
    ({"fit": {"epoch": 3}}, "section `fit` of x.yaml"), ({"module": {"class": "ProfilModule"}}, "section `module` of x.yaml: .*choose one of"),
    ({"module": {"lrr": 1}}, "section `module` of x.yaml.*Did you mean 'lr'"), ({"augment": []}, "Unknown key in x.yaml"),
    ({"arch": {"name": "CNN", "convs": {}}}, "section `arch` of x.yaml.*Did you mean 'conv'")])
def test_errors_name_file_section_and_key(tmp_path, change, message):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"arch": {"name": "CNN", "input_len": 40}, **change}))
    with pytest.raises(ValueError, match=message): load_config(tmp_path / "x.yaml")


def test_allowed_keys_are_those_of_the_calls():
    assert "transforms" in allowed_keys("fit", {}) and "callbacks" not in allowed_keys("fit", {})
    for kind in MODULES: assert "class" in allowed_keys("module", {"class": kind}) and "arch" not in allowed_keys("module", {"class": kind})
