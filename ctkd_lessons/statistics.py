"""Say how sure a measured number is: paired differences, intervals, claims.

Every array here has one entry per seed. Methods that share their seeds are compared seed by seed,
which takes out what a lucky split gives to both.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval.

    An interval made this way contains the true mean in 95 % of all repetitions (or as many as the
    confidence says). The seeds redraw splits, teachers and students from the same data set: the
    interval speaks of that, not of other data sets.

    ``mean``, ``low``, ``high``: in the units of the values; ``positive``: how many of the ``seeds``
    values are above zero.
    """

    mean: float
    low: float
    high: float
    positive: int
    seeds: int

    def __str__(self) -> str:
        return f"{self:-}"

    def __format__(self, sign: str) -> str:
        """Write "mean [low, high]"; ``sign``: "+", "-" or " ", as for numbers."""
        return "{} [{}, {}]".format(*(_written(value, sign) for value in (self.mean, self.low, self.high)))


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return mean and Student t-interval: mean ± t · s / √n.

    ``values``: (S,), one per seed, S ≥ 2, finite. Raises ``ValueError`` otherwise.
    """
    values = _per_seed("values", values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}")
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half, int((values > 0).sum()), len(values))


def compare(baseline: ArrayLike, method: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the paired difference method − baseline with its t-interval.

    ``baseline``, ``method``: (S,), the same seeds in the same order; ``positive`` of the answer is
    the number of seeds on which the method is better. Raises ``ValueError`` if lengths differ.
    """
    baseline, method = _per_seed("baseline", baseline), _per_seed("method", method)
    if len(baseline) != len(method):
        raise ValueError(f"method: expected {len(baseline)} seeds as in baseline, got {len(method)}")
    return interval(method - baseline, confidence)


@dataclass(frozen=True)
class Claim:
    """A sentence, the interval that was measured, and the bound that its near end must keep."""

    text: str
    measured: Interval
    at_least: float | None
    at_most: float | None

    @property
    def holds(self) -> bool:
        """Whether the whole interval is on the right side of the bound."""
        return self.measured.low >= self.at_least if self.at_most is None else self.measured.high <= self.at_most

    @property
    def bound(self) -> str:
        """The bound in words."""
        words = f"at least {self.at_least:g}" if self.at_most is None else f"at most {self.at_most:g}"
        return words.replace("-", "−")

    def __str__(self) -> str:
        verdict = "holds " if self.holds else "BROKEN"
        return (
            f"{verdict}  {self.text}\n        {self.measured: } over {self.measured.seeds} seeds, claimed {self.bound}"
        )


class ClaimBroken(AssertionError):
    """A claim of a lesson no longer holds on this machine or for this seed."""


def claim(text: str, difference: ArrayLike, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Show a claim with its measured interval; raise ``ClaimBroken`` if it does not hold.

    ``difference``: (S,), one value per seed. With ``at_least`` the interval's lower end must reach
    the bound; with ``at_most`` (for "does not help") its upper end must stay within it. Raises
    ``ValueError`` unless there is a text, exactly one bound, and one finite number per seed.
    """
    if not text or (at_least is None) == (at_most is None):
        raise ValueError("claim: expected a sentence and exactly one of at_least and at_most")
    made = Claim(text, interval(difference), at_least, at_most)
    _show(made)
    if not made.holds:
        raise ClaimBroken(str(made))


def _written(value: float, sign: str) -> str:
    return f"{value:{sign}.3f}".replace("-", "−")


def table(rows: dict[str, ArrayLike], baseline: str | None = None) -> str:
    """Return a text table: each method's mean with interval, and its paired gain over ``baseline``.

    ``rows``: method → (S,) values. Raises ``ValueError`` if ``baseline`` is not among the rows.
    """
    if baseline is not None and baseline not in rows:
        raise ValueError(f"baseline: expected one of {list(rows)}, got {baseline!r}")
    width = max(map(len, rows))
    lines = [f"{'':{width}}   mean [95 % interval]    " + (f"  gain over {baseline}" if baseline else "")]
    for name, values in rows.items():
        gain = f"  {compare(rows[baseline], values):+}" if baseline and name != baseline else ""
        lines.append(f"{name:{width}}  {interval(values): }{gain}")
    return "\n".join(lines)


def _per_seed(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name}: expected one number per seed for at least 2 seeds, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {array}")
    return array


def _show(made: Claim) -> None:
    """Print the claim; in a notebook its numbers go into the output too, for the page of claims."""
    from IPython import get_ipython  # here, because it is slow to load and only notebooks need it
    from IPython.display import display

    if get_ipython() is None:
        print(made)
        return
    record = asdict(made) | {"holds": made.holds, "bound": made.bound}
    display({"text/plain": str(made)}, raw=True, metadata={"ctkd": {"claim": record}})
