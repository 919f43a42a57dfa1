"""What someone does with the package, as a type checker sees it."""

import torch
from torch import Tensor, nn

import mcnn


def shrink(model: nn.Module, calibration: Tensor) -> tuple[nn.Module, float]:
    scales: dict[str, Tensor] = mcnn.density.importance.input_scales(model, calibration)
    small, report = mcnn.density.importance.quantize(model, scales, fraction=0.5)
    bits: float = report.bits_per_weight
    names: list[str] = [layer.name for layer in report.layers]
    print(report, names, report.untouched)
    return small, bits


def build() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    sparse, report = mcnn.paths.sparsify(model, density=0.2, seed=3)
    print(report.distinct / report.weights)
    return mcnn.partition.replace_dropout(sparse, masks="own")


def more(x: Tensor) -> Tensor:
    layer = mcnn.paths.PathLinear(64, 32, paths=256, method="sobol")
    dense: nn.Linear = layer.to_dense()
    points: Tensor = mcnn.sampling.points(16, 2, method="sobol", seed=1)
    drop = mcnn.partition.DropoutPartition(3)
    y: Tensor = drop(layer(x))
    net = mcnn.paths.PathMLP([64, 32, 10], paths=128)
    linears, _ = mcnn.linear.sample_linears(nn.Sequential(nn.Linear(64, 10)), samples=8)
    pooled = mcnn.relu.replace_maxpool(nn.Sequential(nn.MaxPool2d(2)))
    counts: Tensor = mcnn.density.sample_counts(dense.weight, samples=4)
    print(points.shape, counts.shape, linears, pooled, net(x).shape)
    return y


if __name__ == "__main__":
    small, bits = shrink(build(), torch.rand(8, 64))
    more(torch.rand(4, 64))
