r"""How good a score is: area under the curve with intervals from blocks of time, calibration, and a linear competitor.

Samples close in time are alike, so single samples are no units of evidence: blocks are. With $W_{ij}$ the pairs of an up sample in
block i and a down sample in block j that the score orders rightly (ties half), and $N_{ij}$ all of them, AUC = sum W / sum N, and
leaving a block out is leaving out a row and a column. The interval is the jackknife's with Student's t.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import stdtrit

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
N_BINS = 10


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where it cannot be had."""

    value: float
    error: float
    low: float
    high: float

    def excludes(self, value: float | int) -> bool:
        """Whether the interval leaves a value out."""
        return bool(self.low > value or self.high < value)

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f}"


def ordered_pairs(
    score: np.ndarray, label: np.ndarray, block: np.ndarray, n_blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """(W, N) of the module's formula, each (n_blocks, n_blocks)."""
    right, count = np.zeros((n_blocks, n_blocks)), np.zeros((n_blocks, n_blocks))
    ups = score[label > 0]
    up_block = block[label > 0]
    for j in range(n_blocks):
        downs = np.sort(score[(label < 0) & (block == j)])
        below = np.searchsorted(downs, ups, side="left") + np.searchsorted(downs, ups, side="right")
        right[:, j] = np.bincount(up_block, below / 2, n_blocks)
        count[:, j] = np.bincount(up_block, minlength=n_blocks) * len(downs)
    return right, count


def area(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that an up sample scores above a down sample, ties half."""
    right, count = ordered_pairs(score, label, np.zeros(len(label), int), 1)
    return float(right[0, 0] / count[0, 0]) if count[0, 0] else np.nan


def area_estimate(score: np.ndarray, label: np.ndarray, block: np.ndarray, n_blocks: int) -> Estimate:
    """AUC with its interval."""
    right, count = ordered_pairs(score, label, block, n_blocks)
    return _jackknife(right, count)


def gain_estimate(
    score: np.ndarray, other: np.ndarray, label: np.ndarray, block: np.ndarray, n_blocks: int
) -> Estimate:
    """AUC of one score minus that of another on the same samples, with its interval."""
    right, count = ordered_pairs(score, label, block, n_blocks)
    right = right - ordered_pairs(other, label, block, n_blocks)[0]
    return _jackknife(right, count)


def _without(pairs: np.ndarray) -> np.ndarray:
    """Sum over pairs when each block in turn is left out."""
    return pairs.sum() - pairs.sum(axis=0) - pairs.sum(axis=1) + np.diag(pairs)


def _jackknife(right: np.ndarray, count: np.ndarray) -> Estimate:
    """Of the blocks that have samples: an empty one is no evidence."""
    used = count.sum(axis=0) + count.sum(axis=1) > 0
    if not used.any():
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    with np.errstate(invalid="ignore"):  # 0/0 = NaN: one block has all the samples of a class
        value, left_out = right.sum() / count.sum(), _without(right)[used] / _without(count)[used]
    n = len(left_out)
    error = float(np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2)))
    half = float(stdtrit(n - 1, 0.975)) * error
    return Estimate(float(value), error, float(value - half), float(value + half))


def time_blocks(seconds: np.ndarray, n_blocks: int) -> np.ndarray:
    """Number of the equally long block of time of each sample."""
    start, length = seconds.min(), max(np.ptp(seconds), 1e-9)
    return np.minimum(((seconds - start) / length * n_blocks).astype(int), n_blocks - 1)


class Calibration(eqx.Module):
    """P(up) of a score: 1/2 at 0, monotone, and 1 - P for the mirrored book.

    Args:
        strength: |score| of the knots, rising.
        hit: How often the score's sign is right there.
    """

    strength: Float[Array, " knot"]
    hit: Float[Array, " knot"]

    def __call__(self, score: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Probability of up; linear between the knots, constant beyond."""
        return 0.5 + jnp.sign(score) * (jnp.interp(jnp.abs(score), self.strength, self.hit) - 0.5)

    @classmethod
    def fit(cls, score: np.ndarray, label: np.ndarray, n_bins: int = 2 * N_BINS) -> "Calibration":
        """Isotonic regression of hits on |score| in bins of equal numbers; below 1/2 an odd curve would fall at 0."""
        from scipy.optimize import isotonic_regression  # a third of a second that other experiments need not wait for

        order = np.argsort(np.abs(score), kind="stable")
        bins = [part for part in np.array_split(order, n_bins) if len(part)]
        hit = (np.sign(score) == label) + 0.5 * (score == 0)
        count = np.array([len(part) for part in bins])
        shares = np.maximum(isotonic_regression(np.array([hit[part].mean() for part in bins]), weights=count).x, 0.5)
        strength = np.array([np.abs(score[part]).mean() for part in bins])
        real = jnp.result_type(float)
        return cls(jnp.asarray(strength, real), jnp.asarray(shares, real))


def ridge_logistic(features: np.ndarray, label: np.ndarray, ridge: float, n_steps: int = 30) -> np.ndarray:
    """Weights without an intercept: mean logistic loss plus ridge/2 times their square, by damped Newton steps."""
    weights = np.zeros(features.shape[1])
    eye = ridge * np.eye(features.shape[1])

    def loss(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -label * (features @ w)).mean() + ridge / 2 * w @ w)

    for _ in range(n_steps):
        probability = 1 / (1 + np.exp(np.clip(-features @ weights, -50, 50)))
        slope = features.T @ (probability - (label > 0)) / len(label) + ridge * weights
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features / len(label) + eye
        step = np.linalg.solve(curvature, slope)
        size, before = 1.0, loss(weights)
        while loss(weights - size * step) > before and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return weights


def linear_weights(
    features: np.ndarray, label: np.ndarray, stopping_features: np.ndarray, stopping_label: np.ndarray
) -> np.ndarray:
    """Ridge logistic regression; the ridge with the largest AUC on the stopping block."""
    fits = [ridge_logistic(features, label, ridge) for ridge in RIDGES]
    return max(fits, key=lambda w: area(stopping_features @ w, stopping_label))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predicted against observed frequencies in bins of equal numbers.

    Args:
        predicted, observed, count: One entry per bin.
        brier: Mean squared error of the probabilities; 0.25 = always one half.
        log_loss: Mean negative log-likelihood; 0.693 = always one half.
        error: Mean distance of predicted and observed, weighted by the counts.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    brier: float
    log_loss: float
    error: float


def reliability(probability: np.ndarray, label: np.ndarray, n_bins: int = N_BINS) -> Reliability:
    """Reliability of probabilities of up."""
    order = np.argsort(probability, kind="stable")
    bins = [part for part in np.array_split(order, n_bins) if len(part)]
    up = (label > 0).astype(float)
    predicted, observed = (np.array([x[part].mean() for part in bins]) for x in (probability, up))
    count = np.array([len(part) for part in bins])
    kept = np.clip(probability, 1e-12, 1 - 1e-12)
    return Reliability(
        predicted,
        observed,
        count,
        brier=float(np.mean((probability - up) ** 2)),
        log_loss=float(-np.mean(np.where(label > 0, np.log(kept), np.log1p(-kept)))),
        error=float(np.sum(count * np.abs(predicted - observed)) / count.sum()),
    )
