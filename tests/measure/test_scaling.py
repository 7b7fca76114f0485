"""The scaling fit: constants to be found again, another optimizer, its intervals, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmx.measure.scaling import HUBER, NAMES, ScalingFit, ScalingLaw, fit_scaling, missing_for_scaling

HOFFMANN = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # arXiv:2203.15556, equation 10
SMALL = ScalingLaw(E=2.0, A=200.0, B=800.0, alpha=0.35, beta=0.33)


def grid(sizes: list[float], lengths: list[float]) -> tuple[np.ndarray, np.ndarray]:
    n, d = np.meshgrid(sizes, lengths)
    return n.ravel(), d.ravel()


FEW = grid([1e6, 4e6, 1.6e7, 6e7], [1e7, 1e8, 1e9])
MANY = grid([7e7, 2e8, 6e8, 2e9, 6e9, 1.6e10], [5e9, 2e10, 8e10, 3e11, 1e12])


@pytest.mark.parametrize(("law", "runs"), [(HOFFMANN, MANY), (SMALL, FEW)], ids=["published", "small"])
def test_known_constants_are_found_again(law: ScalingLaw, runs: tuple[np.ndarray, np.ndarray]) -> None:
    fit = fit_scaling(*runs, law.loss(*runs), resamples=20)
    for name in NAMES:
        assert getattr(fit.law, name) == pytest.approx(getattr(law, name), rel=1e-6), name
        found = fit.interval(name)
        assert found.low == pytest.approx(found.high, rel=1e-5)  # without noise there is no doubt


def test_published_constants_under_noise_lie_in_their_intervals() -> None:
    noise = np.random.default_rng(3).normal(0, 0.003, len(MANY[0]))
    fit = fit_scaling(*MANY, HOFFMANN.loss(*MANY) * np.exp(noise), resamples=200)
    for name in NAMES:
        found = fit.interval(name)
        assert found.low <= getattr(HOFFMANN, name) <= found.high, name
    assert fit.law.alpha == pytest.approx(HOFFMANN.alpha, rel=0.06)
    assert fit.law.beta == pytest.approx(HOFFMANN.beta, rel=0.12)
    far = fit.predict(7e10, 1.4e12)  # Chinchilla itself
    assert far.low <= float(HOFFMANN.loss(7e10, 1.4e12)) <= far.high
    assert far.high - far.low < 0.05


def test_no_other_optimizer_finds_a_lower_cost() -> None:
    """torch's L-BFGS, as the paper used it, from starts of its own on the same noisy runs."""
    rng = np.random.default_rng(5)
    losses = SMALL.loss(*FEW) * np.exp(rng.normal(0, 0.01, len(FEW[0])))
    log_n, log_d, log_l = (torch.from_numpy(np.log(values)) for values in (*FEW, losses))

    def cost(row: torch.Tensor) -> torch.Tensor:
        terms = torch.stack(torch.broadcast_tensors(row[0], row[1] - row[3] * log_n, row[2] - row[4] * log_d))
        return torch.nn.functional.huber_loss(terms.logsumexp(0), log_l, delta=HUBER, reduction="sum")

    costs = []
    for alpha in (0.25, 0.5):
        for scale in (4.0, 7.0):
            row = torch.tensor([0.5, scale, scale, alpha, alpha], dtype=torch.float64, requires_grad=True)
            search = torch.optim.LBFGS(
                [row], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12
            )

            def closure(row: torch.Tensor = row, search: torch.optim.LBFGS = search) -> torch.Tensor:
                search.zero_grad()
                value = cost(row)
                value.backward()
                return value

            search.step(closure)
            costs.append(float(cost(row).detach()))
    law = fit_scaling(*FEW, losses, resamples=1).law
    own = torch.tensor([np.log(law.E), np.log(law.A), np.log(law.B), law.alpha, law.beta])
    assert float(cost(own)) == pytest.approx(min(costs), rel=1e-4)
    assert float(cost(own)) <= min(costs) * (1 + 1e-6)


def test_a_failed_run_does_not_bend_the_curve() -> None:
    losses = np.array(SMALL.loss(*FEW))
    losses[6] *= 1.5
    fit = fit_scaling(*FEW, losses, resamples=1)
    others = np.arange(len(losses)) != 6
    off = np.abs(fit.law.loss(*FEW) / SMALL.loss(*FEW) - 1)
    assert off[others].max() < 0.01
    assert fit.law.loss(1.2e8, 2e9) == pytest.approx(SMALL.loss(1.2e8, 2e9), rel=0.01)


def test_predictions_cover_the_run_that_comes() -> None:
    """Seeded: 40 studies of twelve runs, each with one more, larger run, at half a per cent of noise."""
    rng, covered, widths = np.random.default_rng(11), 0, []
    truth = float(SMALL.loss(1.2e8, 2e9))
    for trial in range(40):
        losses = SMALL.loss(*FEW) * np.exp(rng.normal(0, 0.005, len(FEW[0])))
        found = fit_scaling(*FEW, losses, resamples=60, seed=trial).predict(1.2e8, 2e9)
        covered += found.low <= truth * np.exp(rng.normal(0, 0.005)) <= found.high
        widths.append(found.high - found.low)
    assert covered >= 33  # of 38 expected; 33 or fewer is three standard errors away
    assert np.mean(widths) < 0.05 * truth


def test_residuals_are_widened_for_the_constants_that_were_fitted_to_them() -> None:
    losses = SMALL.loss(*FEW) * np.exp(np.random.default_rng(2).normal(0, 0.01, len(FEW[0])))
    fit = fit_scaling(*FEW, losses, resamples=1)
    off = np.log(losses / fit.law.loss(*FEW))
    np.testing.assert_allclose(fit.residuals, (off - off.mean()) * np.sqrt(12 / 7), atol=1e-12)


def test_a_law_beyond_doubt_predicts_a_run_within_its_own_noise() -> None:
    draws = np.tile([getattr(SMALL, name) for name in NAMES], (1000, 1))
    found = ScalingFit(SMALL, draws, np.array([-0.1, 0.1]), 0.95, 0).predict(1e8, 1e9)
    truth = float(SMALL.loss(1e8, 1e9))
    assert (found.low, found.high) == pytest.approx((truth * np.exp(-0.1), truth * np.exp(0.1)))


def test_the_best_size_for_a_budget() -> None:
    """Against a search over sizes; for the published law, more tokens a parameter as compute grows."""
    for flops in (1e18, 1e21, 5.76e23):
        parameters, tokens = HOFFMANN.optimal(flops)
        assert 6 * parameters * tokens == pytest.approx(flops)
        sizes = parameters * np.geomspace(0.1, 10, 2001)
        losses = HOFFMANN.loss(sizes, flops / 6 / sizes)
        assert sizes[losses.argmin()] == pytest.approx(parameters, rel=0.01)


def test_same_seed_same_intervals() -> None:
    losses = SMALL.loss(*FEW) * np.exp(np.random.default_rng(0).normal(0, 0.005, len(FEW[0])))
    first, again = (fit_scaling(*FEW, losses, resamples=30) for _ in range(2))
    assert first.interval("alpha") == again.interval("alpha")
    assert first.predict(1e8, 1e9) == again.predict(1e8, 1e9)
    assert fit_scaling(*FEW, losses, resamples=30, seed=1).interval("alpha") != first.interval("alpha")


@pytest.mark.parametrize(
    ("runs", "missing"),
    [
        (
            grid([1e6, 2e6], [1e8, 2e8]),
            "4 runs, needed: at least 6; 2 different model sizes, needed: at least 3",
        ),
        (grid([1e6], [1e7, 2e7, 4e7, 8e7, 1e8, 2e8]), "1 different model sizes, needed: at least 3"),
        (
            grid([1e6, 1.01e6, 1.02e6, 3e6], [1e7, 2e7, 4e7]),
            "2 different model sizes, needed: at least 3",
        ),
        (grid([1e6, 2e6, 4e6], [1e7, 2e7]), "2 different training lengths, needed: at least 3"),
        (
            (np.geomspace(1e6, 1e8, 8), 20 * np.geomspace(1e6, 1e8, 8)),
            "sizes and lengths that grow together, needed: one size trained on several lengths",
        ),
    ],
)
def test_what_cannot_tell_the_constants_apart_is_refused(
    runs: tuple[np.ndarray, np.ndarray], missing: str
) -> None:
    assert missing in (missing_for_scaling(*runs) or "")
    with pytest.raises(ValueError, match=missing):
        fit_scaling(*runs, SMALL.loss(*runs))


def test_bad_numbers_are_refused() -> None:
    losses = np.array(SMALL.loss(*FEW))
    losses[2] = np.nan
    with pytest.raises(ValueError, match=r"losses: got \[.*nan.*\], allowed: finite and positive"):
        fit_scaling(*FEW, losses)
    with pytest.raises(ValueError, match=r"parameters: got .* allowed: finite and positive"):
        fit_scaling(-FEW[0], FEW[1], SMALL.loss(*FEW))
    with pytest.raises(ValueError, match=r"runs: got shapes \(12,\), \(12,\), \(3,\)"):
        fit_scaling(*FEW, losses[:3])
