"""Collaborative filtering: enumeration as an oracle of ranks, z-tests of samples, and gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch.nn import functional as F

from mcnn import ranking
from mcnn.data import wheels
from mcnn.errors import DataError, UsageError
from mcnn.experiments.ranking import common, estimates, models
from mcnn.ranking import interactions, metrics, negatives
from mcnn.ranking.__main__ import main
from mcnn.ranking.training import Recipe, epochs

torch.set_num_threads(1)
F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def made():
    return ranking.generated(users=60, items=80, each=12, seed=3)


@pytest.fixture(scope="module")
def scored(made):
    """Scores with many ties, so that they count."""
    scores = torch.randn(made.users, made.items, generator=generator(1), dtype=F64)
    return (scores * 4).round() / 4


# --- interactions ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), unique=True), st.randoms())
def test_the_last_two_choices_of_each_user_are_held_out(pairs, random):
    times = [random.randrange(4) for _ in pairs]
    user, item = (torch.tensor([p[k] for p in pairs], dtype=torch.int64) for k in (0, 1))
    of = {u: [n for n, p in enumerate(pairs) if p[0] == u] for u in {p[0] for p in pairs}}
    kept = {u: sorted(ns, key=lambda n: times[n]) for u, ns in of.items() if len(ns) >= 3}
    if not kept:
        with pytest.raises(UsageError, match="nobody has 3 choices"):
            ranking.leave_one_out(user, item, torch.tensor(times, dtype=torch.int64))
        return
    data = ranking.leave_one_out(user, item, torch.tensor(times))
    names = sorted({pairs[n][1] for ns in kept.values() for n in ns})
    assert (data.users, data.items) == (len(kept), len(names))
    for row, u in enumerate(sorted(kept)):
        *learned, validation, test = (names.index(pairs[n][1]) for n in kept[u])
        assert data.item[data.user == row].tolist() == learned
        assert (int(data.validation[row]), int(data.test[row])) == (validation, test)
        assert data.seen[row].nonzero().flatten().tolist() == sorted([*learned, validation, test])
        assert data.known[row].nonzero().flatten().tolist() == sorted(learned)
    assert int(data.popularity.sum()) == len(data.item)


@pytest.mark.parametrize(
    "text",
    [
        "1\t5\t3\t10\n1\t6\t1\t12\n1\t7\t5\t11\n",
        "1::5::3::10\n1::6::1::12\n1::7::5::11",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t5\t3\t10\n1\t6\t1\t12\n1\t7\t5\t11\n",
        "userId,movieId,rating,timestamp\n1,5,3.5,10\n1,6,1.0,12\n1,7,5.0,11\n",
    ],
    ids=["100k", "1M", "recbole", "later"],
)
def test_every_form_of_movielens_is_read(text, tmp_path):
    (tmp_path / "ratings").write_text(text)
    data = ranking.read(tmp_path / "ratings")
    assert (data.item.tolist(), data.validation.tolist(), data.test.tolist()) == ([0], [2], [1])


def test_what_is_no_file_of_ratings_is_one_line(tmp_path, capsys):
    with pytest.raises(DataError, match="cannot be read"):
        ranking.read(tmp_path / "none")
    (tmp_path / "words").write_text("1 2 three\n")
    with pytest.raises(DataError, match="not ratings"):
        ranking.read(tmp_path / "words")
    assert main([str(tmp_path / "words")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match="of one length"):
        ranking.leave_one_out(torch.zeros(2), torch.zeros(3), torch.zeros(3))
    one = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UsageError, match="twice"):
        ranking.leave_one_out(one, torch.tensor([1, 2, 3, 1]), one)
    with pytest.raises(UsageError, match="no ratings"):
        common.load("netflix", 0)


def test_movielens_comes_out_of_its_wheel(monkeypatch):
    asked = []
    lines = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n9 4 1 3\n9 5 1 2\n9 6 1 1\n"
    )

    def read(*names):
        asked.append(names)
        return lines.encode()

    monkeypatch.setattr(wheels, "read", read)
    assert common.load("movielens", 0).test.tolist() == [0]
    assert asked == [("movielens", interactions._MEMBER)]


@pytest.mark.skipif(wheels.status("movielens").state != "ok", reason="no wheel of MovieLens")
def test_movielens_has_the_published_numbers():
    data = ranking.movielens()
    assert (data.users, data.items, int(data.seen.sum())) == (943, 1682, 100_000)


def test_made_up_choices_follow_taste_and_popularity():
    data = ranking.generated(users=300, items=50, each=10, factors=1, seed=2)
    assert data.seen.sum(1).unique().tolist() == [10]
    again = ranking.generated(users=300, items=50, each=10, factors=1, seed=2)
    assert torch.equal(data.seen, again.seen)
    assert not torch.equal(data.seen, ranking.generated(300, 50, 10, 1, seed=3).seen)
    counts = data.seen.sum(0).double()
    assert float(counts.var()) > 3 * 300 * 0.2 * 0.8, "items differ by more than chance"
    values = torch.linalg.eigvalsh(torch.cov(data.seen.double().T))
    assert float(values[-1]) > 3 * float(values[-2]), "one taste beside the popularity"


# --- models ---------------------------------------------------------------------------------------

MODELS = {
    "dot": lambda: ranking.Dot(4, 5, 3, seed=1),
    "GMF": lambda: ranking.GMF(4, 5, 3, seed=1),
    "MLP": lambda: ranking.MLP(4, 5, (6, 4, 2), seed=1),
    "MLP of paths": lambda: ranking.MLP(4, 5, (6, 4, 2), paths=12, seed=1),
    "NeuMF": lambda: ranking.NeuMF(4, 5, 3, (6, 4, 2), seed=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_its_formula(name):
    net = MODELS[name]().double()
    u, i = torch.tensor([3, 0, 1]), torch.tensor([2, 4, 0])
    w = {k: p.detach() for k, p in net.named_parameters()}
    if name == "dot":
        want = (w["user.weight"][u] * w["item.weight"][i]).sum(1)
        net.item_bias.weight.data[4] = 7.0
        want[1] += 7
    else:
        parts = []
        if name in ("GMF", "NeuMF"):
            prefix = "gmf_" if name == "NeuMF" else ""
            parts.append(w[f"{prefix}user.weight"][u] * w[f"{prefix}item.weight"][i])
        if name != "GMF":
            x = torch.cat([w["user.weight"][u], w["item.weight"][i]], 1)
            if name == "MLP of paths":
                layers = [(m.to_dense().weight, m.bias) for m in net.tower.net.layers]
            else:
                layers = [(m.weight, m.bias) for m in net.tower if isinstance(m, torch.nn.Linear)]
            for weight, bias in layers:
                x = F.relu(x @ weight.T + bias)
            parts.append(x)
        want = torch.cat(parts, 1) @ w["last.weight"][0] + w["last.bias"]
    assert torch.allclose(net(u, i), want, rtol=1e-12)
    assert torch.allclose(net.scores()[u, i], net(u, i))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_a_model(name):
    net = MODELS[name]().double()
    with torch.no_grad():
        for n, p in enumerate(net.parameters()):  # away from zero, where a ReLU bends
            p.copy_(torch.randn(p.shape, generator=generator(n + 5), dtype=F64))
    names, values = zip(*net.named_parameters(), strict=True)
    pair = (torch.tensor([3, 0]), torch.tensor([2, 4]))

    def logits(*parameters):
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), pair)

    assert torch.autograd.gradcheck(logits, values)


def test_a_model_repeats_and_its_parts_differ():
    one, two = (ranking.NeuMF(9, 9, 4, (8, 4), seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    tables = [one.user.weight, one.item.weight, one.gmf_user.weight, one.gmf_item.weight]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(tables, 2))
    state = torch.get_rng_state()
    ranking.NeuMF(9, 9, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="even number"):
        ranking.MLP(3, 3, (7, 2))
    wide = ranking.Dot(500, 500, 8, 1, spread=0.5).user.weight.detach()
    assert float(wide.std()) == pytest.approx(0.5, rel=0.05)


def test_without_a_layer_a_tower_ranks_alike_for_everybody():
    scores = ranking.MLP(6, 30, (8,), seed=2).double().scores()
    assert torch.equal(scores.argsort(1), scores[:1].argsort(1).expand(6, -1))


# --- metrics --------------------------------------------------------------------------------------


@given(
    n=st.integers(2, 8),
    data=st.data(),
    kind=st.sampled_from(["hit", "ndcg"]),
    k=st.integers(1, 4),
)
def test_the_expectation_is_the_mean_over_all_draws(n, data, kind, k):
    r, m = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    gain = metrics.gains(kind, k)
    values = []
    for drawn in itertools.combinations(range(n), m):  # candidates below r score as high
        rank = sum(j < r for j in drawn)
        values.append(gain[rank] if rank < k else 0.0)
    found = metrics.expected(torch.tensor([r]), torch.tensor([n]), gain, m)
    assert float(found) == pytest.approx(np.mean(values), abs=1e-12)
    full = metrics.expected(torch.tensor([r]), torch.tensor([n]), gain)
    assert float(full) == (gain[r] if r < k else 0.0)
    everything = metrics.expected(torch.tensor([r]), torch.tensor([n]), gain, n)
    assert float(everything) == pytest.approx(float(full), abs=1e-12)


def test_gains_are_those_of_the_field():
    assert metrics.gains("ndcg", 3).tolist() == pytest.approx([1, 1 / math.log2(3), 0.5])
    rank, n = torch.tensor([0, 1, 40]), torch.tensor([50, 50, 50])
    assert ranking.hit_rate(rank, n, 2, sampled=None) == pytest.approx(2 / 3)
    assert ranking.ndcg(rank, n, 2, sampled=None) == pytest.approx((1 + 1 / math.log2(3)) / 3)
    with pytest.raises(UsageError, match="no metric"):
        metrics.gains("recall", 3)
    with pytest.raises(UsageError, match="at least 1"):
        metrics.gains("hit", 0)
    with pytest.raises(UsageError, match="50 candidates"):
        ranking.hit_rate(rank, n)


def test_ranks_count_what_scores_at_least_as_high(made, scored):
    candidates = ~made.seen
    found = ranking.ranks(scored, made.test, candidates)
    for u in range(made.users):
        own = scored[u, made.test[u]]
        want = sum(bool(candidates[u, j] and scored[u, j] >= own) for j in range(made.items))
        assert int(found[u]) == want
    assert int(ranking.ranks(torch.zeros(1, 4), torch.tensor([0]), torch.arange(4)[None] > 0)) == 3


def test_what_is_not_a_number_has_no_rank(made, scored):
    """A comparison with NaN is false, so a model that has run away would rank first."""
    broken = scored.clone()
    broken[0] = torch.nan
    q = negatives.density(~made.seen)
    drawn = negatives.draw(q, 3, generator())
    for call in (
        lambda: metrics.ranks(broken, made.test, ~made.seen),
        lambda: metrics.sampled_ranks(broken, made.test, ~made.seen, 5, generator()),
        lambda: metrics.unbiased_rank(broken, made.test, drawn, q),
    ):
        with pytest.raises(UsageError, match="not a number"):
            call()


def test_who_has_chosen_everything_ends_no_training(made):
    """Negatives would be looked for without end."""
    user, item = (torch.tensor(v) for v in ([0] * 4 + [1] * 4, [0, 1, 2, 3, 0, 1, 4, 5]))
    data = ranking.leave_one_out(user, item, torch.arange(8))
    full = interactions.Interactions(
        data.users, 2, data.user, data.item, data.validation, data.test, data.seen
    )
    with pytest.raises(UsageError, match="every item"):
        next(epochs([(ranking.GMF(2, 6, seed=0), Recipe())], full, generator=generator()))
    with pytest.raises(UsageError, match="no model"):
        next(epochs([], data, generator=generator()))


def test_random_items_give_the_expected_metric(made, scored):
    candidates = ~made.seen
    n, rank = candidates.sum(1), ranking.ranks(scored, made.test, candidates)
    repeats, m, k = 400, 20, 5
    drawn = torch.stack(
        [
            ranking.sampled_ranks(scored, made.test, candidates, m, generator(s))
            for s in range(repeats)
        ]
    )
    mean = metrics.expected(rank, n, metrics.gains("hit", k), m)
    error = (mean * (1 - mean)).sum().sqrt() / repeats**0.5 / made.users
    z = ((drawn < k).double().mean() - mean.mean()) / error
    assert abs(float(z)) < 4
    assert torch.equal(
        ranking.sampled_ranks(scored, made.test, candidates[:, :], int(n.min()), generator())[
            n == n.min()
        ],
        rank[n == n.min()],
    ), "all of them are all"
    with pytest.raises(UsageError, match="are to be drawn"):
        ranking.sampled_ranks(scored, made.test, candidates, made.items, generator())


def test_metrics_can_order_two_models_the_other_way_round():
    n = torch.full((10,), 1000)
    sharp = torch.tensor([2] * 3 + [900] * 7)  # three users well served, the others not at all
    vague = torch.full((10,), 60)  # nobody's item is on the list
    assert ranking.hit_rate(sharp, n, sampled=None) > ranking.hit_rate(vague, n, sampled=None) == 0
    assert ranking.hit_rate(sharp, n) < 0.31
    assert ranking.hit_rate(vague, n) > 0.9


# --- negatives ------------------------------------------------------------------------------------


def test_densities_leave_no_candidate_out(made):
    candidates = ~made.seen
    for power in (0.5, 1.0):
        q = negatives.density(candidates, made.popularity, power)
        assert torch.equal(q > 0, candidates)
        assert torch.allclose(q.sum(1), torch.ones(made.users, dtype=F64))
        a, b = candidates[0].nonzero().flatten()[:2]
        want = ((made.popularity[a] + 1) / (made.popularity[b] + 1)) ** power
        assert float(q[0, a] / q[0, b]) == pytest.approx(float(want))
    flat = negatives.density(candidates)
    assert torch.equal(flat, negatives.density(candidates, made.popularity, 0.0))
    with pytest.raises(UsageError, match="chosen all items"):
        negatives.density(torch.zeros(1, 3, dtype=torch.bool))


def test_items_are_drawn_with_their_probabilities():
    q = torch.tensor([[0.0, 0.5, 0.2, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]], dtype=F64)
    drawn = negatives.draw(q, 20_000, generator(1))
    counts = torch.bincount(drawn[0], minlength=5)
    z = (counts - 20_000 * q[0]) / (20_000 * q[0] * (1 - q[0])).sqrt().clamp(min=1e-9)
    assert float(z.abs().max()) < 4
    assert drawn[1].unique().tolist() == [0]


@pytest.mark.parametrize(("xi", "first"), [(0.0, 1), (0.5, 2), (1.0, 3)])
def test_a_number_on_a_border_draws_what_may_be_drawn(xi, first, monkeypatch):
    q = torch.tensor([[0.0, 0.5, 0.25, 0.25, 0.0]], dtype=F64)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, xi, dtype=F64))
    assert negatives.draw(q, 2, generator()).tolist() == [[first, first]]


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(-3, 3)), min_size=1, max_size=6))
def test_the_variance_is_that_of_all_outcomes(pairs):
    q, f = torch.tensor(pairs, dtype=F64).T
    q = q / q.sum()
    total = f.sum()
    want = (q * (f / q - total) ** 2).sum()
    padded = [torch.cat([x, torch.zeros(1, dtype=F64)])[None] for x in (f**2, q)]
    found = negatives.variance(padded[0], total[None] ** 2, padded[1])
    assert torch.allclose(found, want[None], atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "popularity"])
def test_weights_make_every_density_right(made, scored, weighted):
    candidates = ~made.seen
    q = negatives.density(candidates, made.popularity if weighted else None)
    rank = ranking.ranks(scored, made.test, candidates).double()
    f = torch.stack([F.softplus(scored), scored**2], -1)  # a vector for each pair
    total = (f * candidates[..., None]).sum(1)
    better = ((scored >= scored.gather(1, made.test[:, None])) & candidates).double()
    m = 30_000
    item = negatives.draw(q, m, generator(4))
    estimate = ranking.unbiased_rank(scored, made.test, item, q)
    error = (negatives.variance(better, rank**2, q) / m).sqrt()
    z = torch.where(error > 0, (estimate - rank) / error, 0.0)
    assert float((z**2).sum()) < made.users + 4 * (2 * made.users) ** 0.5
    rows = torch.arange(made.users)[:, None]
    found = negatives.weighted_sum(f[rows, item], q.gather(1, item))
    error = (negatives.variance((f**2).sum(-1), (total**2).sum(-1), q) / m).sqrt()
    ratio = (found - total).square().sum(-1) / error**2
    assert 0.3 < float(ratio.mean()) < 2, "the variance of a vector is that of its length"


def test_a_negative_is_never_a_known_choice():
    known = torch.rand(20, 10, generator=generator(1)) < 0.8
    known[:, 3] = False
    user = torch.arange(20).repeat(3000)
    item = negatives.not_known(known, user, generator(2))
    assert not known[user, item].any()
    counts = torch.bincount(item[user == 0], minlength=10)[~known[0]].double()
    want = 3000 / len(counts)
    assert float((counts - want).abs().max()) < 4.5 * want**0.5


# --- training and the experiments -----------------------------------------------------------------


def test_an_epoch_is_adam_on_the_loss_of_the_source(made):
    """One batch that holds everything: a step by hand."""
    size = 5 * len(made.user)
    net, other = (ranking.GMF(made.users, made.items, 4, seed=1) for _ in range(2))
    ours = epochs([(net, Recipe(0.01))], made, number=1, batch_size=size, generator=generator(6))
    assert list(ours) == [1]
    others = made.user.repeat(4)
    item = negatives.not_known(made.known, others, generator(6))
    chosen = -F.logsigmoid(other(made.user, made.item)).sum()
    loss = (chosen - F.logsigmoid(-other(others, item)).sum()) / size
    loss.backward()
    step = torch.optim.Adam(other.parameters(), 0.01)
    step.step()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_models_learn_the_same_alone_and_beside_others(made):
    together = [ranking.GMF(made.users, made.items, 4, seed=1), ranking.Dot(60, 80, 4, seed=2)]
    alone = ranking.GMF(made.users, made.items, 4, seed=1)
    options = {"number": 2, "generator": generator(6)}
    list(epochs([(m, Recipe()) for m in together], made, **options))
    list(epochs([(alone, Recipe())], made, number=2, generator=generator(6)))
    assert torch.equal(alone.item.weight, together[0].item.weight)


def test_a_command_ranks_a_file_of_ratings(tmp_path, capsys):
    pairs = [(u, (37 * u + 11 * n) % 151) for u in range(60) for n in range(9)]
    text = "\n".join(f"{u}::{i}::4::{n}" for n, (u, i) in enumerate(pairs))
    (tmp_path / "ratings.dat").write_text(text)
    assert main([str(tmp_path / "ratings.dat"), "--epochs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3
    (tmp_path / "few.dat").write_text("1 2 5 1\n1 3 5 2\n1 4 5 3\n2 2 1 1\n2 1 1 2\n2 5 1 3\n")
    assert main([str(tmp_path / "few.dat"), "--epochs", "1"]) == 2
    assert "are to be drawn" in capsys.readouterr().err
    assert all(0 <= float(x) <= 1 for line in lines[1:] for x in line.split()[2:])


def test_the_estimates_of_the_records():
    trial = estimates.EstimatesTrial(
        ratings="generated", epochs=2, repeats=20, batch_size=256, seed=4
    )
    found = estimates._run(trial, torch.device("cpu"))
    ps = [found["metric"][kind]["p"] for kind in ("hit", "ndcg")]
    ps += [v for part in found["sums"].values() for k, v in part.items() if k.startswith("p,")]
    assert min(ps) > 1e-3
    assert found["sums"]["popularity"]["bias without weights"] > 0.05, "weights matter"
    assert max(found["generalise"].values()) < 1e-12
    assert all(values[0] == pytest.approx(1) for values in found["variance"].values())


def test_p_values_of_metrics_are_spread_evenly(made, scored):
    """A wrong standard error shows: here more than half of the variance of a hit is its mean."""
    trial = estimates.EstimatesTrial(repeats=2, sampled=20, k=14)
    ps = [
        estimates._metrics(scored, made, trial, generator(s))[kind]["p"]
        for s in range(100)
        for kind in ("hit", "ndcg")
    ]
    below = [sum(p < level for p in ps) / len(ps) for level in (0.25, 0.5, 0.75)]
    assert below == pytest.approx([0.25, 0.5, 0.75], abs=0.14)


def test_the_gradient_of_a_users_losses(made):
    net = ranking.Dot(made.users, made.items, 3, seed=1, spread=0.5).double()
    candidates = ~made.seen
    squares, total = estimates.gradient(net, net.scores(), candidates)
    user = 7
    items = candidates[user].nonzero().flatten()
    for chosen, want in ((items[:1], squares[user, items[0]]), (items, total[user])):
        loss = F.softplus(net(torch.full_like(chosen, user), chosen)).sum()
        by = torch.autograd.grad(loss, list(net.parameters()))
        length = sum(float(g.square().sum()) for g in by)
        assert length == pytest.approx(float(want.detach()), rel=1e-10)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=9))
def test_the_order_of_models_is_kendalls(pairs):
    x, y = zip(*pairs, strict=True)
    found = models.tau(x, y)
    if len(set(x)) == len(x) and len(set(y)) == len(y):
        assert found == pytest.approx(kendalltau(x, y).statistic)
    assert -1 <= found <= 1
    assert models.tau(x, x) == pytest.approx(
        1 - sum(a == b for a, b in itertools.combinations(x, 2)) / math.comb(len(x), 2)
    )


def test_the_models_of_the_records_are_measured():
    trial = models.ModelsTrial(ratings="generated", epochs=3, every=1, batch_size=1024, seed=1)
    found = models._run(trial, torch.device("cpu"))["models"]
    for name, look in found.items():
        assert set(models.METRICS) < set(look)
        if name != models.POPULARITY:
            best = max(c["validation"] for c in look["curve"])
            assert look["validation"] == best
            assert look["epoch"] in [c["epoch"] for c in look["curve"]]
