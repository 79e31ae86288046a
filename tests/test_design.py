"Designs by evolution: each step is the best that exhaustive search finds, rules are kept, goals mean what they say"
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eugene.etl.sequences import decode_ohe, gc_content, ohe, random_seqs, reverse_complement
from eugene.interpretation.constraints import Constraints, allowed_mutants, broken_rules
from eugene.interpretation.evolution import beyond_training, evolve, plot_mutations
from eugene.interpretation.mutagenesis import ism
from eugene.training.prediction import predict

LENGTH = 18
CODES = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "N": "ACGT", **{c: c for c in "ACGT"}}


def network(seed=0, outputs=2):
    "A small network with random weights"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(42, outputs)).eval()


def holds(seq, word):
    "Whether a word with codes stands in a sequence, by looking at every window"
    return any(all(b in CODES[c] for b, c in zip(seq[i:i + len(word)], word)) for i in range(len(seq) - len(word) + 1))


def turned(word):
    "Reverse complement of a word with codes"
    other = {frozenset(v): k for k, v in CODES.items()}
    return "".join(other[frozenset(b.translate(str.maketrans("ACGT", "TGCA")) for b in CODES[c])] for c in reversed(word))


def keeps(seq, start, rules):
    "The rules by hand"
    fixed = all(seq[p] == start[p] for p in rules.fixed)
    words = not any(holds(seq, w) or holds(seq, turned(w)) for w in rules.forbidden)
    return fixed and words and (rules.gc is None or rules.gc[0] - 1e-9 <= sum(b in "GC" for b in seq) / len(seq) <= rules.gc[1] + 1e-9)


def search(model, start, rounds, goal, rules=None, sign=1):
    "Greedy search in which every mutant is written as text and scored in full"
    seq, path = start, []
    score = goal(predict(model, [seq], device="cpu"))[0]
    for _ in range(rounds):
        mutants = [seq[:p] + b + seq[p + 1:] for p in range(len(seq)) for b in "ACGT" if b != seq[p]]
        mutants = [m for m in mutants if rules is None or keeps(m, start, rules)]
        if not mutants: break
        scores = goal(predict(model, mutants, device="cpu"))
        best = (sign * scores).argmax()
        if sign * (scores[best] - score) <= 1e-6: break
        seq, score = mutants[best], scores[best]
        path.append(score)
    return seq, path


@pytest.mark.parametrize("engine", ["windows", "full", "auto"])
@pytest.mark.parametrize("minimise", [False, True])
def test_evolution_is_exhaustive_search(engine, minimise):
    model, starts = network(), random_seqs(4, LENGTH, seed=1)
    found = evolve(model, ohe(starts), rounds=5, target=1, engine=engine, minimise=minimise, device="cpu")
    for n, start in enumerate(starts):
        seq, path = search(model, start, 5, lambda s: s[:, 1], sign=-1 if minimise else 1)
        assert decode_ohe(found.x[n:n + 1]) == [seq]
        mine = found.mutations.query("sequence == @n")["score"].values
        assert len(mine) == len(path) and np.abs(mine - path).max(initial=0) < 1e-5
    assert np.abs(found.scores[-1] - predict(model, found.x, device="cpu")[:, 1]).max() < 1e-5
    assert ((np.diff(found.scores, axis=0) <= 0) if minimise else (np.diff(found.scores, axis=0) >= 0)).all()
    assert np.array_equal(found.start, ohe(starts))


words = st.text("ACGTRYSWKMN", min_size=2, max_size=6).filter(lambda w: set(w) & set("ACGT"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(words, max_size=3), st.sets(st.integers(0, LENGTH - 1), max_size=6), st.sampled_from([None, (.3, .6), (.4, .5), (0., 1.)]), st.integers(1, 4), st.integers(0, 1000))
def test_constraints_are_kept_and_within_them_the_best_is_taken(forbidden, fixed, gc, beam, seed):
    model, rules = network(seed), Constraints(fixed=sorted(fixed), forbidden=forbidden, gc=gc)
    starts = [s for s in random_seqs(60, LENGTH, seed=seed) if keeps(s, s, rules)][:3]
    if not starts: return
    assert broken_rules(ohe(starts), rules) == []
    found = evolve(model, ohe(starts), rounds=4, beam=beam, constraints=rules, device="cpu")
    for n, start in enumerate(starts):
        seq = start
        for m in found.mutations.query("sequence == @n").itertuples():
            assert seq[m.position] == m[4] != m.to
            seq = seq[:m.position] + m.to + seq[m.position + 1:]
            assert keeps(seq, start, rules)
        assert decode_ohe(found.x[n:n + 1]) == [seq]
        if beam == 1: assert seq == search(model, start, 4, lambda s: s[:, 0], rules)[0]
    assert (np.diff(found.scores, axis=0) >= 0).all()
    assert np.abs(found.scores[-1] - predict(model, found.x, device="cpu")[:, 0]).max() < 1e-5


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(words, max_size=3), st.sampled_from([None, (.3, .6)]), st.booleans(), st.integers(0, 1000))
def test_allowed_mutants_are_those_that_keep_the_rules(forbidden, gc, both, seed):
    rules = Constraints(fixed=[0, 3], forbidden=forbidden, gc=gc, both_strands=both)
    x = ohe([*random_seqs(6, 12, seed=seed), "ACGTNACGTNNA"])
    x = np.delete(x, [n for n, _ in broken_rules(x, rules)], axis=0)
    allowed = allowed_mutants(x, rules)
    for n, a, p in np.ndindex(allowed.shape):
        mutant = x[n:n + 1].copy()
        mutant[0, :, p] = np.arange(4) == a
        assert allowed[n, a, p] == (x[n, a, p] != 1 and p not in (0, 3) and not broken_rules(mutant, rules))


def test_a_start_with_unknown_bases_never_ends_in_a_forbidden_word():
    rules = Constraints(forbidden=["GATC", "AAA", "CCC", "GGG", "TTT"])
    found = evolve(network(), ohe(["N" * LENGTH, "ACGTNN" * 3]), rounds=40, constraints=rules, device="cpu")
    for seq in decode_ohe(found.x): assert not any(w in s for w in rules.forbidden for s in (seq, reverse_complement([seq])[0]))
    assert "N" in set(found.mutations["from"])


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy_and_a_wide_one_finds_the_best_pair(seed):
    model, starts = network(seed), ohe(random_seqs(3, LENGTH, seed=seed))
    greedy = evolve(model, starts, rounds=4, device="cpu")
    assert np.array_equal(evolve(model, starts, rounds=4, beam=1, device="cpu").x, greedy.x)
    wide = evolve(model, starts, rounds=2, beam=3 * LENGTH, device="cpu")  # follows every first step that gains
    first = ism(model, starts, device="cpu")
    for n in range(3):
        ways = []
        for a, p in np.argwhere(first[n] > 1e-6):
            mutant = starts[n:n + 1].copy()
            mutant[0, :, p] = np.arange(4) == a
            ways.append(first[n, a, p] + max(0, ism(model, mutant, device="cpu")[0].max()))
        assert abs(wide.scores[-1, n] - wide.scores[0, n] - max(ways, default=0)) < 1e-5
    assert (wide.scores[-1] >= greedy.scores[2] - 1e-6).all() and (np.diff(wide.scores, axis=0) >= 0).all()


def test_goals_of_several_targets():
    model, starts = network(), ohe(random_seqs(4, LENGTH, seed=3))
    both = evolve(model, starts, rounds=4, target={0: 1, 1: -1}, device="cpu")
    y = predict(model, both.x, device="cpu")
    assert np.abs(both.scores[-1] - (y[:, 0] - y[:, 1])).max() < 1e-5
    against = evolve(model, starts, rounds=4, target={0: -1, 1: 1}, device="cpu")
    assert (against.scores[-1] > -both.scores[0]).all() and (both.scores[-1] > both.scores[0]).all()
    mirrored = evolve(model, starts, rounds=4, target={0: 1, 1: -1}, minimise=True, device="cpu")
    assert np.array_equal(mirrored.x, against.x) and np.abs(mirrored.scores + against.scores).max() < 1e-6
    by_function = evolve(model, starts, rounds=4, target=lambda s: s[:, 0] - s[:, 1], device="cpu")
    assert np.array_equal(by_function.x, both.x)
    least = evolve(model, starts, rounds=4, target=lambda s: s.min(1), device="cpu")
    assert np.abs(least.scores[-1] - predict(model, least.x, device="cpu").min(1)).max() < 1e-5
    assert np.array_equal(evolve(model, starts, rounds=4, target={1: 2.5}, device="cpu").x, evolve(model, starts, rounds=4, target=1, device="cpu").x)


def test_going_on_is_going_through():
    model, starts = network(), ohe(random_seqs(4, LENGTH, seed=4))
    rules = Constraints(gc=(.2, .6)) if gc_content(starts).max() <= .6 else None
    whole = evolve(model, starts, rounds=6, constraints=rules, device="cpu")
    parts = evolve(model, starts, rounds=0, constraints=rules, device="cpu")
    for rounds in (1, 3, 2): parts = evolve(model, parts, rounds, constraints=rules, device="cpu")
    assert np.array_equal(parts.x, whole.x) and parts.scores.shape == whole.scores.shape and np.abs(parts.scores - whole.scores).max() < 1e-5
    assert parts.mutations.drop(columns="score").equals(whole.mutations.drop(columns="score")) and np.array_equal(parts.start, starts)


def test_the_peer_makes_the_same_designs():
    peer = pytest.importorskip("tangermeme.design").greedy_substitution
    model, starts = network(outputs=1), ohe(random_seqs(3, LENGTH, seed=5))
    found = evolve(model, starts, rounds=3, device="cpu")
    for n in range(3): assert np.array_equal(peer(model, torch.tensor(starts[n:n + 1]).float(), max_iter=3, tol=1e-6, device="cpu").numpy()[0], found.x[n])


def test_bad_requests_are_refused():
    model, x = network(), ohe(random_seqs(3, LENGTH, seed=6))
    refused = [(ValueError, "predicts 2 columns", {"target": 2}), (ValueError, "predicts 2 columns", {"target": {0: 1, 5: 1}}), (TypeError, "is a str", {"target": "leaf"}), (ValueError, "no weight", {"target": {}}),
               (ValueError, "no weight", {"target": {0: np.nan}}), (ValueError, "one number for each row", {"target": lambda s: s.mean()}), (ValueError, "beam=0", {"beam": 0}),
               (ValueError, "has AAAA at", {"constraints": Constraints(forbidden=["AAAA"]), "x": ohe(["C" * 10 + "AAAA" + "C" * 4])}), (ValueError, "G and C", {"constraints": Constraints(gc=(.99, 1))}),
               (ValueError, "nothing can evolve", {"constraints": Constraints(fixed=range(LENGTH))}), (ValueError, "sequences have 0 to 17", {"constraints": Constraints(fixed=[18])}),
               (ValueError, "IUPAC", {"constraints": Constraints(forbidden=["AXA"])}), (ValueError, "list of words", {"constraints": Constraints(forbidden="AAC")}), (ValueError, "lowest", {"constraints": Constraints(gc=(40, 60))}),
               (ValueError, "mask of shape", {"constraints": Constraints(fixed=np.zeros((2, 2), bool))}), (ValueError, "engine", {"engine": "fast"})]
    for error, message, options in refused:
        with pytest.raises(error, match=message): evolve(model, options.pop("x", x), device="cpu", **options)
    free = evolve(model, x, rounds=2, device="cpu")
    for rules in (Constraints(), Constraints(forbidden=["ACGT" * 10]), Constraints(forbidden=[]), Constraints(fixed=[]), Constraints(gc=(0, 1))):
        assert np.array_equal(evolve(model, x, rounds=2, constraints=rules, device="cpu").x, free.x)


def test_masks_of_one_sequence_each():
    model, x = network(), ohe(random_seqs(3, LENGTH, seed=7))
    mask = np.random.default_rng(0).random((3, LENGTH)) < .7
    found = evolve(model, x, rounds=6, constraints=Constraints(fixed=mask), device="cpu")
    assert not (found.x != x).any(1)[mask].any() and (found.x != x).any()


def test_the_map_and_the_table_of_what_lies_beyond():
    import matplotlib.pyplot as plt
    model, x = network(), ohe(random_seqs(5, LENGTH, seed=8))
    found = evolve(model, x, rounds=3, device="cpu")
    drawn = np.asarray(plot_mutations(found, order=range(5)).images[0].get_array().filled(0))
    for m in found.mutations.itertuples(): assert drawn[m.sequence, m.position] >= m.round
    plt.close("all")
    table = beyond_training(found.scores, predict(model, x, device="cpu")[:, 0])
    assert table.loc[0, ["below", "above"]].tolist() == [0, 0] and (table["above"].diff().dropna() >= 0).all()
