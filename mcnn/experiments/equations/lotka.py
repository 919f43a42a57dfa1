"""Predators and prey: integral equations against a differential equation and an LSTM.

Each seed draws one system and a hundred initial states; a model is told the initial state and must
give the state at a hundred times up to 15.
All have about as many parameters and as many updates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.equations import Attention, ContractionError, NeuralIntegralEquation, Operator, Urysohn
from mcnn.equations.operators import Integral
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in

HORIZON, POINTS, DRAWS = 15.0, 100, 100
SPLIT = {"train": slice(0, 70), "validation": slice(70, 80), "test": slice(80, 100)}
PARTS = 3  # of the time, reported one by one
_FINE = 10  # steps of the reference between two points


@dataclass(frozen=True, kw_only=True)
class LotkaTrial(Trial):
    """One model on the system of a seed."""

    model: str = "integral"
    lr: float = 0.01
    updates: int = 60
    batch: int = 16


def systems(seed: int) -> Tensor:
    """Return states of one system from a hundred initial ones, [draws, points, 2].

    In units of the equilibrium, u' = αu(1 − v) and v' = γv(u − 1).
    """
    generator = torch.Generator().manual_seed(fold_in(seed, 0))
    rate = 0.8 + 0.4 * torch.rand(2, dtype=torch.float64, generator=generator)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    u = torch.rand(DRAWS, 2, dtype=torch.float64, generator=generator)
    start = (math.log(0.5) + u * math.log(4)).exp()  # 1/2 to 2 equilibria

    import torchdiffeq  # takes a while

    def field(t: Tensor, state: Tensor) -> Tensor:
        return sign * rate * state * (1 - state.flip(-1))

    fine = torch.linspace(0, HORIZON, (POINTS - 1) * _FINE + 1, dtype=torch.float64)
    path = torchdiffeq.odeint(field, start, fine, method="rk4")
    return path[::_FINE].transpose(0, 1)


class _Timed(Urysohn):
    """The integral over the time of the system, not over the unit interval."""

    def sample(self, x: Tensor, weights: Tensor, y: Tensor) -> Integral:
        return super().sample(x, HORIZON * weights, y)


class _Integral(nn.Module):
    """The initial state as a constant source, and an operator over the time."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.equation = NeuralIntegralEquation(
            operator, "volterra", "rectangle", n=POINTS, tol=1e-3, steps=POINTS
        )
        self.worst = 0

    @torch.no_grad()
    def retreat(self) -> None:
        """Make the operator smaller, after a solver that did not come to rest."""
        for p in self.equation.operator.last.parameters():
            p.mul_(0.8)

    def forward(self, start: Tensor) -> Tensor:
        found = self.equation(start.unsqueeze(1).expand(-1, POINTS, -1))
        self.worst = max(self.worst, self.equation.taken)
        return found


class _Differential(nn.Module):
    """A neural ordinary differential equation, by the midpoint rule between the points."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, hidden),
            nn.Tanh(),
            nn.Linear(hidden, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 2),
        )
        with torch.no_grad():
            for p in self.net[-1].parameters():
                p.mul_(0.1)

    def forward(self, start: Tensor) -> Tensor:
        import torchdiffeq

        def field(t: Tensor, a: Tensor) -> Tensor:
            return self.net(torch.cat([t.expand(len(a), 1) / HORIZON, a], 1))

        times = torch.linspace(0, HORIZON, POINTS)
        return torchdiffeq.odeint(field, start, times, method="midpoint").transpose(0, 1)


class _Recurrent(nn.Module):
    """An LSTM that is given its own last state and adds to it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2, hidden)
        self.out = nn.Linear(hidden, 2)
        with torch.no_grad():
            for p in self.out.parameters():
                p.mul_(0.1)

    def forward(self, start: Tensor) -> Tensor:
        path, memory = [start], None
        for _ in range(POINTS - 1):
            memory = self.cell(path[-1], memory)
            path.append(path[-1] + self.out(memory[0]))
        return torch.stack(path, 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "integral": lambda: _Integral(_Timed(1, 2, hidden=29, frequencies=4)),
    "attention": lambda: _Integral(Attention(1, 2, width=16, hidden=28, frequencies=16, scale=1.0)),
    "differential": lambda: _Differential(hidden=32),
    "lstm": lambda: _Recurrent(hidden=15),
}
# Of learning, chosen on the validation draws of another seed.
RATES = {"integral": 0.03, "attention": 0.03, "differential": 0.01, "lstm": 0.03}


def run(trial: LotkaTrial, device: torch.device) -> dict:
    """Train; return errors on the held-out draws, in deviations of the training states."""
    states = systems(trial.seed)
    train = states[SPLIT["train"]]
    states = ((states - train.mean((0, 1))) / train.std((0, 1))).float()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(fold_in(trial.seed, 1))
        model = MODELS[trial.model]()
    generator = torch.Generator().manual_seed(fold_in(trial.seed, 2))
    optimizer = torch.optim.Adam(model.parameters(), trial.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.updates)
    seen, losses, failed = states[SPLIT["train"]], [], 0
    for _ in range(trial.updates):
        some = seen[torch.randperm(len(seen), generator=generator)[: trial.batch]]
        optimizer.zero_grad()
        try:
            loss = F.mse_loss(model(some[:, 0]), some)
            loss.backward()
        except ContractionError:
            failed += 1
            model.retreat()
            continue
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    errors = {}
    with torch.no_grad():
        for part in ("validation", "test"):
            held = states[SPLIT[part]]
            squares = (model(held[:, 0]) - held).square().mean((0, 2))  # [points]
            errors[part] = float(squares.mean().sqrt())
        thirds = [float(s.mean().sqrt()) for s in squares.chunk(PARTS)]
    return {
        "validation": errors["validation"],
        "test": errors["test"],
        "thirds": thirds,
        "over time": squares.sqrt().tolist(),
        "loss": losses[:: max(1, trial.updates // 50)],
        "parameters": sum(p.numel() for p in model.parameters()),
        "failed": failed,
        "repetitions": getattr(model, "worst", 0),
    }


def trials(profile: str, seeds: Sequence[int]) -> list[LotkaTrial]:
    """List all models for every seed."""
    small = {} if profile == "full" else {"updates": 12}
    return [
        LotkaTrial(model=name, lr=RATES[name], seed=s, **small) for name in MODELS for s in seeds
    ]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return test errors of equations minus those of the others, paired, and all by themselves."""
    found = {(r.config.model, r.config.seed): r.metrics for r in records}
    seeds = sorted({seed for _, seed in found})

    def errors(name: str, third: int | None = None) -> list[float]:
        rows = [found[name, seed] for seed in seeds]
        return [row["test"] if third is None else row["thirds"][third] for row in rows]

    readings: dict[str, list[float]] = {}
    for ours in ("attention", "integral"):
        for other in ("differential", "lstm"):
            pairs = zip(errors(ours), errors(other), strict=True)
            readings[f"{ours} minus {other}"] = [a - b for a, b in pairs]
            pairs = zip(errors(ours, -1), errors(other, -1), strict=True)
            readings[f"{ours} minus {other}, last third"] = [a - b for a, b in pairs]
    return readings | {name: errors(name) for name in MODELS}


EXPERIMENT = Experiment(
    name="equations-lotka",
    summary="predators and prey by integral equations, a neural differential equation and an LSTM",
    trial=LotkaTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(1), "full": range(5)},
    measures={"equations-lotka": measure, "equations-lstm": measure},
    tolerance=0.05,
)
