"""The schedules against their closed forms, and against PyTorch, step by step, where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.engine import Parameter, Tensor
from minicnn.optim import SGD, lr_scheduler
from minicnn.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

BASES = (0.5, 0.03)


def make_optimizer(bases=BASES):
    o = SGD([{"params": [Parameter([1.0])], "lr": lr} for lr in bases])
    o.step()  # no gradients: changes nothing, and the schedules may move on
    return o


def sequence(optimizer, scheduler, steps):
    """The rates of all groups, before the first and after each step."""
    rates = [[g["lr"] for g in optimizer.param_groups]]
    for _ in range(steps):
        scheduler.step()
        rates.append([g["lr"] for g in optimizer.param_groups])
        assert scheduler.get_last_lr() == rates[-1]
    return np.array(rates)


def expected(formula, steps, bases=BASES):
    return np.array([[formula(base, t) for base in bases] for t in range(steps + 1)])


# ------------------------------------------------------------------------------------------------- closed forms

@given(st.integers(1, 7), st.floats(0.1, 1.5))
def test_step_lr(step_size, gamma):
    o = make_optimizer()
    got = sequence(o, StepLR(o, step_size, gamma), 30)
    np.testing.assert_allclose(got, expected(lambda base, t: base * gamma ** (t // step_size), 30), rtol=1e-12)


@given(st.lists(st.integers(0, 25), max_size=6), st.floats(0.1, 1.5))
def test_multi_step_lr(milestones, gamma):
    o = make_optimizer()
    got = sequence(o, MultiStepLR(o, milestones, gamma), 30)
    want = expected(lambda base, t: base * gamma ** sum(m <= t for m in milestones), 30)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 20))
def test_linear_lr(start, end, total):
    o = make_optimizer()
    got = sequence(o, LinearLR(o, start, end, total), 30)
    want = expected(lambda base, t: base * (start + (end - start) * min(t, total) / total), 30)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@given(st.integers(1, 25), st.sampled_from([0.0, 0.01, 0.6]))
def test_cosine_annealing_lr(T_max, eta_min):
    """Past the bottom too, where it rises again."""
    o = make_optimizer()
    got = sequence(o, CosineAnnealingLR(o, T_max, eta_min), 60)
    want = expected(lambda base, t: eta_min + (base - eta_min) * (1 + math.cos(math.pi * t / T_max)) / 2, 60)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_lambda_lr():
    o = make_optimizer()
    got = sequence(o, LambdaLR(o, lambda t: 0.95**t), 20)
    np.testing.assert_allclose(got, expected(lambda base, t: base * 0.95**t, 20), rtol=1e-12)
    o = make_optimizer()
    got = sequence(o, LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: t]), 20)
    want = [[0.5 / (1 + t), 0.03 * t] for t in range(21)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_sequential_lr_warms_up_and_then_anneals():
    o = make_optimizer()
    parts = [LinearLR(o, 0.1, total_iters=5), CosineAnnealingLR(o, 20), StepLR(o, 2, 0.5)]
    got = sequence(o, SequentialLR(o, parts, [5, 20]), 30)

    def formula(base, t):
        if t < 5:
            return base * (0.1 + 0.9 * t / 5)
        if t < 20:
            return base * (1 + math.cos(math.pi * (t - 5) / 20)) / 2
        return base * 0.5 ** ((t - 20) // 2)

    np.testing.assert_allclose(got, expected(formula, 30), rtol=0, atol=1e-12)


def test_two_schedules_on_one_optimiser_multiply():
    o = make_optimizer()
    steps, line = StepLR(o, 3, 0.5), LinearLR(o, 0.5, total_iters=4)
    for t in range(1, 10):
        steps.step()
        line.step()
        want = [base * 0.5 ** (t // 3) * (0.5 + 0.5 * min(t, 4) / 4) for base in BASES]
        np.testing.assert_allclose([g["lr"] for g in o.param_groups], want, rtol=1e-12)


def test_a_rate_changed_by_hand_is_carried_on():
    o = make_optimizer()
    s = StepLR(o, 2, 0.1)
    o.param_groups[0]["lr"] = 7.0
    np.testing.assert_allclose(sequence(o, s, 2)[:, 0], [7, 7, 0.7])


# ------------------------------------------------------------------------------------------------------ plateau

def plateau(metrics, base, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps):
    """Told as a story: the rate after each metric."""
    rates, lr, best, bad, resting = [], base, None, 0, 0
    for metric in metrics:
        sign = 1 if mode == "max" else -1
        margin = threshold if threshold_mode == "abs" else threshold * (best or 0)
        better = best is None or sign * metric > sign * best + margin
        best, bad = (metric, 0) if better else (best, bad + 1)
        if resting:
            resting, bad = resting - 1, 0
        if bad > patience:
            lower = max(lr * factor, min_lr)
            lr = lower if lr - lower > eps else lr
            resting, bad = cooldown, 0
        rates.append(lr)
    return rates


@settings(max_examples=100)
@given(
    options=st.fixed_dictionaries({
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.sampled_from([0.1, 0.5]),
        "patience": st.integers(0, 3),
        "threshold": st.sampled_from([0, 1e-4, 0.2]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 3),
        "min_lr": st.sampled_from([0, 0.01]),
        "eps": st.sampled_from([1e-8, 0.02]),
    }),
    metrics=st.lists(st.sampled_from([0.5, 0.9, 1.0, 1.05, 1.5, 2.0]), max_size=40),
)  # fmt: skip
def test_reduce_lr_on_plateau(options, metrics):
    o = make_optimizer()
    s = ReduceLROnPlateau(o, **options)
    got = []
    for metric in metrics:
        s.step(metric)
        got.append([g["lr"] for g in o.param_groups])
        assert s.get_last_lr() == got[-1]
    want = [plateau(metrics, base, **options) for base in BASES]
    np.testing.assert_allclose(np.array(got).reshape(-1, 2), np.array(want).T, rtol=1e-12)


def test_plateau_takes_tensors_and_never_takes_nan_for_better():
    o = make_optimizer()
    s = ReduceLROnPlateau(o, patience=1, min_lr=[0.1, 0])
    s.step(Tensor(np.float32(1.0)))
    assert s.best == 1
    for _ in range(2):
        s.step(math.nan)
    assert s.get_last_lr() == [0.1, 0.003]


# --------------------------------------------------------------------------------------------------- the mechanism

def parts(o):
    return [LinearLR(o, 0.1, total_iters=4), CosineAnnealingLR(o, 8, 0.001)]


KINDS = {
    "StepLR": lambda o: StepLR(o, 3),
    "MultiStepLR": lambda o: MultiStepLR(o, [2, 7]),
    "LinearLR": lambda o: LinearLR(o, total_iters=8),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, 9),
    "LambdaLR": lambda o: LambdaLR(o, lambda t: 0.9**t),
    "SequentialLR": lambda o: SequentialLR(o, parts(o), [4]),
    "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, patience=1, cooldown=1),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def advance(scheduler, steps):
    for _ in range(steps):
        scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))


@every_kind
@pytest.mark.parametrize("when", [0, 3, 5])
def test_resuming_gives_the_same_rates(kind, when):
    o = make_optimizer()
    s = KINDS[kind](o)
    advance(s, when)
    saved_optimizer, saved = o.state_dict(), s.state_dict()
    other = make_optimizer()
    t = KINDS[kind](other)
    other.load_state_dict(saved_optimizer)
    t.load_state_dict(saved)
    assert t.get_last_lr() == s.get_last_lr()
    for _ in range(8):
        advance(s, 1)
        advance(t, 1)
        assert t.get_last_lr() == s.get_last_lr() == [g["lr"] for g in other.param_groups]
        assert t.last_epoch == s.last_epoch


def test_a_rate_that_rounding_made_negative_can_be_loaded():
    o = make_optimizer()
    advance(LinearLR(o, end_factor=0), 5)
    assert -1e-16 < min(g["lr"] for g in o.param_groups) < 0, "the case does not arise"
    make_optimizer().load_state_dict(o.state_dict())


@every_kind
def test_a_saved_state_is_a_snapshot(kind):
    s = KINDS[kind](make_optimizer())
    saved = s.state_dict()
    before = repr(saved)
    advance(s, 8)
    assert repr(saved) == before
    t = KINDS[kind](make_optimizer())
    t.load_state_dict(saved)
    advance(t, 8)
    assert repr(saved) == before


@every_kind
def test_what_is_done_to_a_saved_state_does_not_reach_the_schedule(kind):
    def scribble(state):
        for value in state.values():
            if isinstance(value, list):
                for part in value:
                    if isinstance(part, dict):
                        scribble(part)
                value.clear()

    s, t = KINDS[kind](make_optimizer()), KINDS[kind](make_optimizer())
    want = KINDS[kind](make_optimizer())
    saved = s.state_dict()
    t.load_state_dict(saved)
    scribble(saved)
    for _ in range(8):
        assert s.get_last_lr() == t.get_last_lr() == want.get_last_lr()
        for schedule in (s, t, want):
            advance(schedule, 1)


@pytest.mark.parametrize(
    "kind, options, sets_the_next",
    [
        (StepLR, {"step_size": 3}, True),
        (MultiStepLR, {"milestones": [2, 6, 7]}, True),
        (LambdaLR, {"lr_lambda": lambda t: 0.9**t}, True),
        (LinearLR, {"total_iters": 8}, False),
        (CosineAnnealingLR, {"T_max": 9}, False),
    ],
)
def test_last_epoch_goes_on_from_there(kind, options, sets_the_next):
    """PyTorch's ways: making the schedule counts as the next step, whose rate some kinds set, and others leave."""
    o = make_optimizer()
    s = kind(o, **options)
    advance(s, 5)
    other = make_optimizer()
    other.load_state_dict(o.state_dict())
    t = kind(other, **options, last_epoch=5)
    if sets_the_next:
        advance(s, 1)
    assert t.last_epoch == 6
    assert t.get_last_lr() == pytest.approx(s.get_last_lr(), rel=1e-14)


def test_stepping_before_the_optimiser_warns():
    o = SGD([Parameter([1.0])], lr=0.1)
    s = StepLR(o, 1)
    with pytest.warns(UserWarning, match="before optimizer.step"):
        s.step()


def test_stepping_after_the_optimiser_does_not_warn():
    o = SGD([Parameter([1.0])], lr=0.1)
    s = StepLR(o, 1)
    o.step()
    s.step()  # a warning would be an error


# ------------------------------------------------------------------------------------------------------------ errors

@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda o: StepLR("adam", 3), TypeError, "StepLR: optimizer is a str"),
        (lambda o: LambdaLR(None, abs), TypeError, "LambdaLR: optimizer is a NoneType"),
        (lambda o: ReduceLROnPlateau([o]), TypeError, "optimizer is a list"),
        (lambda o: SequentialLR(None, [], []), TypeError, "optimizer is a NoneType"),
        (lambda o: StepLR(o, 0), ValueError, "step_size is 0"),
        (lambda o: CosineAnnealingLR(o, 0), ValueError, "T_max is 0"),
        (lambda o: LinearLR(o, 0), ValueError, "start_factor is 0"),
        (lambda o: LinearLR(o, 1.5), ValueError, "start_factor is 1.5"),
        (lambda o: LinearLR(o, end_factor=-0.1), ValueError, "end_factor is -0.1"),
        (lambda o: LinearLR(o, end_factor=1.1), ValueError, "end_factor is 1.1"),
        (lambda o: LinearLR(o, total_iters=0), ValueError, "total_iters is 0"),
        (lambda o: LambdaLR(o, [abs]), ValueError, "lr_lambda has 1 functions for 2"),
        (lambda o: StepLR(o, 1, last_epoch=3), KeyError, r"last_epoch is 3, but param_groups\[0\] has no 'initial_lr'"),
        (lambda o: ReduceLROnPlateau(o, factor=1.0), ValueError, "factor is 1.0"),
        (lambda o: ReduceLROnPlateau(o, mode="best"), ValueError, "mode is 'best'"),
        (lambda o: ReduceLROnPlateau(o, threshold_mode="x"), ValueError, "threshold_mode is 'x'"),
        (lambda o: ReduceLROnPlateau(o, min_lr=[0.1]), ValueError, "min_lr has 1 rates for 2"),
        (lambda o: SequentialLR(o, [], []), ValueError, "0 schedulers and 0 milestones"),
        (lambda o: SequentialLR(o, [StepLR(o, 1)], [3]), ValueError, "1 schedulers and 1 milestones"),
        (lambda o: SequentialLR(o, [ReduceLROnPlateau(o)], []), TypeError, r"schedulers\[0\] is a ReduceLROnPlateau"),
        (lambda o: SequentialLR(o, [StepLR(make_optimizer(), 1)], []), ValueError, "another optimiser"),
        (lambda o: SequentialLR(o, [StepLR(o, 1)], [], last_epoch=2), ValueError, "load_state_dict"),
        (lambda o: StepLR(o, 1).load_state_dict(LinearLR(o).state_dict()), ValueError, "gamma.*another schedule"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make(make_optimizer())


@pytest.mark.parametrize("kind", ["CosineAnnealingLR", "LambdaLR"])
def test_a_group_added_later_is_explained(kind):
    o = make_optimizer()
    s = CosineAnnealingLR(o, 1) if kind == "CosineAnnealingLR" else LambdaLR(o, lambda t: 1)
    advance(s, 1)
    o.add_param_group({"params": [Parameter([1.0])]})
    with pytest.raises(ValueError, match=f"{kind}: the optimiser has 3 parameter groups, and had 2"):
        advance(s, 1)


# ------------------------------------------------------------------------------------------- PyTorch, where installed

def some(kind):
    """Options for a schedule of that kind."""
    return {
        "StepLR": st.fixed_dictionaries({"step_size": st.integers(1, 6), "gamma": st.floats(0.1, 1)}),
        "MultiStepLR": st.fixed_dictionaries({
            "milestones": st.lists(st.integers(0, 20), max_size=5),
            "gamma": st.floats(0.1, 1),
        }),
        "LinearLR": st.fixed_dictionaries({
            "start_factor": st.floats(0.01, 1),
            "end_factor": st.floats(0, 1),
            "total_iters": st.integers(1, 20),
        }),
        "CosineAnnealingLR": st.fixed_dictionaries({"T_max": st.integers(1, 20), "eta_min": st.floats(0, 0.1)}),
        "LambdaLR": st.fixed_dictionaries({"lr_lambda": st.sampled_from([lambda t: 0.9**t, lambda t: 1 / (1 + t)])}),
        "ReduceLROnPlateau": st.fixed_dictionaries({
            "mode": st.sampled_from(["min", "max"]),
            "patience": st.integers(0, 3),
            "threshold": st.sampled_from([0, 0.2]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 2),
            "min_lr": st.sampled_from([0, 0.01, [0.02, 0]]),
        }),
    }[kind]  # fmt: skip


def both(torch):
    theirs = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in BASES])
    torch.optim.lr_scheduler.LambdaLR(theirs, lambda t: 1)  # the first one watches for steps from then on ...
    theirs.step()  # ... and is content to have seen one
    return make_optimizer(), theirs


def compare(ours, theirs):
    got, want = ([g["lr"] for g in o.param_groups] for o in (ours, theirs))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


ALONE = [kind for kind in KINDS if kind != "SequentialLR"]


@settings(max_examples=60)
@given(data=st.data())
def test_one_or_two_schedules_equal_pytorchs(data):
    """Two at a time on one optimiser, and a rate changed by hand on the way."""
    torch = pytest.importorskip("torch")
    ours, theirs = both(torch)
    pairs = []
    for kind in data.draw(st.lists(st.sampled_from(ALONE), min_size=1, max_size=2)):
        options = data.draw(some(kind))
        theirs_too = getattr(torch.optim.lr_scheduler, kind)(theirs, **options)
        pairs.append((getattr(lr_scheduler, kind)(ours, **options), theirs_too))
        compare(ours, theirs)
    by_hand = data.draw(st.integers(0, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    metrics = rng.choice([-1.0, -0.9, 0.5, 0.9, 1.0, 1.05, 2.0], size=30)
    for t in range(30):
        if t == by_hand:
            ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.3
        for s, their_s in pairs:
            arguments = [metrics[t]] if isinstance(s, ReduceLROnPlateau) else []
            s.step(*arguments)
            their_s.step(*arguments)
            compare(ours, theirs)
            np.testing.assert_allclose(s.get_last_lr(), their_s.get_last_lr(), rtol=1e-12, atol=1e-12)
            assert s.last_epoch == their_s.last_epoch


@settings(max_examples=40)
@given(data=st.data())
def test_sequential_equals_pytorchs(data):
    torch = pytest.importorskip("torch")
    ours, theirs = both(torch)
    kinds = data.draw(st.lists(st.sampled_from(ALONE[:-1]), min_size=1, max_size=3))
    milestones = sorted(data.draw(st.lists(st.integers(0, 15), min_size=len(kinds) - 1, max_size=len(kinds) - 1)))
    options = [data.draw(some(kind)) for kind in kinds]
    s, their_s = (
        library.SequentialLR(
            o, [getattr(library, kind)(o, **given) for kind, given in zip(kinds, options, strict=True)], milestones
        )
        for library, o in ((lr_scheduler, ours), (torch.optim.lr_scheduler, theirs))
    )
    compare(ours, theirs)
    for _ in range(30):
        s.step()
        their_s.step()
        compare(ours, theirs)
        np.testing.assert_allclose(s.get_last_lr(), their_s.get_last_lr(), rtol=1e-12, atol=1e-12)


@settings(max_examples=40)
@given(data=st.data())
def test_resuming_by_last_epoch_equals_pytorchs(data):
    torch = pytest.importorskip("torch")
    ours, theirs = both(torch)
    kind = data.draw(st.sampled_from(ALONE[:-1]))
    options = data.draw(some(kind))
    last_epoch = data.draw(st.integers(0, 10))
    pair = []
    for library, o in ((lr_scheduler, ours), (torch.optim.lr_scheduler, theirs)):
        first = getattr(library, kind)(o, **options)
        for _ in range(last_epoch):
            first.step()
        pair.append(getattr(library, kind)(o, **options, last_epoch=last_epoch))
    for _ in range(20):
        compare(ours, theirs)
        for s in pair:
            s.step()
