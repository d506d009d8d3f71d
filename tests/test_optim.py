"""The optimisers against scalar loops written from the papers; groups, state, errors; and PyTorch where it is there."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import nn
from minicnn.engine import Parameter, Tensor
from minicnn.optim import SGD, Adam, AdamW, RMSprop, optimizer

SHAPES = [(), (1,), (0,), (7,), (3, 4), (2, 1, 3, 2)]


# ------------------------------------------------------------------------------------------------------- oracles
# One weight, Python floats, one line per line of the paper. `gradients` is the list of its gradients over time;
# the result is the weight after each step.

def sgd(w, gradients, lr, momentum, dampening, weight_decay, nesterov, maximize):
    trace, b = [], None
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * w
        if momentum != 0:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        w = w - lr * g
        trace.append(w)
    return trace


def adam(w, gradients, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=False):
    trace, m, v, v_max = [], 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        old = w
        g = -g if maximize else g
        if not decoupled:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        v_max = max(v_max, v)
        m_hat = m / (1 - betas[0] ** t)
        v_hat = (v_max if amsgrad else v) / (1 - betas[1] ** t)
        w = old - lr * m_hat / (math.sqrt(v_hat) + eps)
        if decoupled:  # PyTorch shrinks first and steps then: the same sum, since the step does not depend on w
            w = w - lr * weight_decay * old
        trace.append(w)
    return trace


def adamw(w, gradients, **options):
    return adam(w, gradients, **options, decoupled=True)


def rmsprop(w, gradients, lr, alpha, eps, weight_decay, momentum, centered, maximize):
    trace, n, mean, delta = [], 0.0, 0.0, 0.0
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * w
        n = alpha * n + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        scaled = g / (math.sqrt(n - mean**2 if centered else n) + eps)
        delta = momentum * delta + scaled
        w = w - lr * (delta if momentum else scaled)
        trace.append(w)
    return trace


rates = st.floats(1e-3, 0.3)
decays = st.sampled_from([0, 0.01, 0.3])
CASES = {
    "SGD": (
        SGD,
        sgd,
        st.fixed_dictionaries({
            "lr": rates,
            "momentum": st.sampled_from([0.5, 0.9]),
            "dampening": st.just(0),
            "weight_decay": decays,
            "nesterov": st.booleans(),
            "maximize": st.booleans(),
        })
        | st.fixed_dictionaries({
            "lr": rates,
            "momentum": st.sampled_from([0, 0.9]),
            "dampening": st.sampled_from([0, 0.1, 1]),
            "weight_decay": decays,
            "nesterov": st.just(False),
            "maximize": st.booleans(),
        }),
    ),
    **{
        name: (
            cls,
            oracle,
            st.fixed_dictionaries({
                "lr": rates,
                "betas": st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.9, 0.999])),
                "eps": st.sampled_from([1e-8, 1e-3]),
                "weight_decay": decays,
                "amsgrad": st.booleans(),
                "maximize": st.booleans(),
            }),
        )
        for name, cls, oracle in (("Adam", Adam, adam), ("AdamW", AdamW, adamw))
    },
    "RMSprop": (
        RMSprop,
        rmsprop,
        st.fixed_dictionaries({
            "lr": rates,
            "alpha": st.sampled_from([0.5, 0.9, 0.99]),
            "eps": st.sampled_from([1e-8, 1e-3]),
            "weight_decay": decays,
            "momentum": st.sampled_from([0, 0.5, 0.9]),
            "centered": st.booleans(),
            "maximize": st.booleans(),
        }),
    ),
}  # fmt: skip


def rounded(x, dtype):
    """Random numbers that float32 holds exactly, so that both precisions and the oracle begin from the same."""
    return np.asarray(x, dtype=np.float32).astype(dtype)


def make(seed, shape, dtype, steps):
    rng = np.random.default_rng(seed)
    return rounded(rng.normal(size=shape), dtype), rounded(rng.normal(size=(steps, *shape)), dtype)


def tolerance(want, steps, dtype):
    """Ten roundings a step, of the largest weight; what is seen is less than one."""
    return 10 * steps * np.finfo(dtype).eps * max(1, np.abs(want).max(initial=0))


def run(cls, start, gradients, options):
    p = Parameter(start)
    o = cls([p], **options)
    trace = []
    for g in gradients:
        p.grad = g.copy()
        o.step()
        assert np.array_equal(p.grad, g), "the gradient was modified"
        trace.append(p.data.copy())
    return np.array(trace).reshape(gradients.shape), p, o


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=25)
@given(data=st.data())
def test_update_rule_is_the_papers(name, dtype, data):
    cls, oracle, strategy = CASES[name]
    options = data.draw(strategy)
    shape, seed = data.draw(st.sampled_from(SHAPES)), data.draw(st.integers(0, 2**32))
    steps = 25
    start, gradients = make(seed, shape, dtype, steps)

    got, p, o = run(cls, start, gradients, options)

    columns = zip(start.ravel().tolist(), gradients.reshape(steps, -1).T.tolist(), strict=True)
    want = np.array([oracle(w, gs, **options) for w, gs in columns]).T.reshape(gradients.shape)
    assert p.dtype == dtype
    assert all(v.dtype == dtype for v in o.state[p].values() if not isinstance(v, int))
    assert np.abs(got - want).max(initial=0) <= tolerance(want, steps, dtype)


@pytest.mark.parametrize("name", CASES)
def test_defaults_are_pytorchs(name):
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    want = {
        "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 1e-2},
        "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
    }
    group = CASES[name][0]([Parameter([1.0])]).param_groups[0]
    assert {k: v for k, v in group.items() if k != "params"} == {**want[name], "maximize": False}


def test_alexnets_update_is_the_same_at_a_constant_rate_and_not_when_it_is_cut():
    start, gradients = make(1, (5,), "float64", 20)
    weights, velocity = start.copy(), np.zeros(5)
    p = Parameter(start)
    o = SGD([p], lr=0.01, momentum=0.9, weight_decay=0.0005)
    for i, g in enumerate(gradients):
        if i == 10:
            np.testing.assert_allclose(p.data, weights, rtol=1e-13)
            o.param_groups[0]["lr"] = 0.001
        lr = o.param_groups[0]["lr"]
        velocity = 0.9 * velocity - 0.0005 * lr * weights - lr * g  # Krizhevsky et al. 2012, section 5
        weights = weights + velocity
        p.grad = g
        o.step()
    assert np.abs(p.data - weights).max() > 1e-3


def test_nesterov_is_sutskevers_lookahead():
    """Their gradient is taken at θ + μ·v; the weights here are that point."""
    rng = np.random.default_rng(2)
    hessian = np.diag(rng.uniform(0.1, 1, 4))
    theta, v, mu, lr = rng.normal(size=4), np.zeros(4), 0.9, 0.1
    p = Parameter(theta)
    o = SGD([p], lr=lr, momentum=mu, nesterov=True)
    for _ in range(30):
        v = mu * v - lr * (hessian @ (theta + mu * v))  # equation 3
        theta = theta + v  # equation 4
        p.grad = hessian @ p.data
        o.step()
        np.testing.assert_allclose(p.data, theta + mu * v, rtol=1e-12, atol=1e-12)


def test_adams_first_step_is_lr_whatever_the_gradients_size():
    p = Parameter(np.zeros(4))
    o = Adam([p], lr=0.25, eps=0)
    p.grad = np.array([1e-9, -3.0, 1e9, 5e-100])
    o.step()
    np.testing.assert_allclose(p.data, [-0.25, 0.25, -0.25, -0.25], rtol=1e-12)


def test_adamw_keeps_weight_decay_out_of_the_means():
    p = Parameter(np.full(3, 2.0))
    o = AdamW([p], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        p.grad = np.zeros(3)
        o.step()
    np.testing.assert_allclose(p.data, 2 * 0.95**3, rtol=1e-14)
    assert not o.state[p]["exp_avg"].any()


def test_centred_rmsprop_survives_a_variance_that_rounding_makes_negative():
    rng = np.random.default_rng(0)
    start = rng.normal(size=1000).astype(np.float32)
    steady = rng.normal(size=1000).astype(np.float32)
    p = Parameter(start)
    o = RMSprop([p], lr=1e-6, alpha=0.5, centered=True)
    for _ in range(60):
        p.grad = steady
        o.step()
    square, mean = o.state[p]["square_avg"], o.state[p]["grad_avg"]
    assert (square - mean * mean).min() < 0, "the case does not arise"
    assert np.isfinite(p.data).all()


# --------------------------------------------------------------------------------------------------- the mechanism

RULES = {
    "sgd": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "dampening": 0.2}),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"lr": 0.1, "weight_decay": 0.1}),
    "amsgrad": (Adam, {"lr": 0.1, "amsgrad": True}),
    "adamw": (AdamW, {"lr": 0.1}),
    "rmsprop": (RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True}),
}
every_rule = pytest.mark.parametrize("rule", RULES)


@every_rule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_do_not_change_a_bit(rule, dtype, monkeypatch):
    cls, options = RULES[rule]
    start, gradients = make(3, (5, 11), dtype, 4)
    whole = run(cls, start, gradients, options)[0]
    monkeypatch.setattr(optimizer, "BLOCK", 7)
    assert np.array_equal(run(cls, start, gradients, options)[0], whole)


@pytest.mark.host
@every_rule
def test_arrays_that_are_not_contiguous(rule, monkeypatch):
    cls, options = RULES[rule]
    monkeypatch.setattr(optimizer, "BLOCK", 7)
    start, gradients = make(4, (5, 11), "float32", 4)
    want, *_ = run(cls, start, gradients, options)
    p = Parameter(start)
    p.data = array = np.asfortranarray(start)
    o = cls([p], **options)
    for g in gradients:
        p.grad = np.repeat(g, 2, axis=1)[:, ::2]
        o.step()
    assert p.data is array
    assert np.array_equal(p.data, want[-1])


@pytest.mark.host
@every_rule
def test_writes_in_place(rule):
    cls, options = RULES[rule]
    p = Parameter(np.ones((2, 3), np.float32))
    array = p.data
    o = cls([p], **options)
    p.grad = np.full((2, 3), 0.5, np.float32)
    o.step()
    assert p.data is array
    assert (array != 1).all()


@every_rule
def test_numpy_numbers_as_options_widen_nothing(rule):
    cls, options = RULES[rule]
    start, gradients = make(5, (4,), "float32", 3)
    want, *_ = run(cls, start, gradients, options)
    p = Parameter(start)
    o = cls([p], **{k: np.float64(v) if type(v) is float else v for k, v in options.items()})
    o.param_groups[0]["lr"] = np.float64(options["lr"])  # as a loop over np.linspace sets it
    for g in gradients:
        p.grad = g
        o.step()
    assert p.dtype == np.float32
    assert np.array_equal(p.data, want[-1])


@every_rule
def test_parameters_without_gradient_are_left_alone(rule):
    cls, options = RULES[rule]
    p, q = Parameter([1.0, 2.0]), Parameter([3.0])
    o = cls([p, q], **options)
    p.grad = np.ones(2, np.float32)
    o.step()
    assert q.data == 3
    assert o.state_dict()["state"].keys() == (set() if rule == "sgd" else {0})  # plain SGD remembers nothing


def test_groups_have_their_own_options():
    (a, b, c), (ga, gb, gc) = make(6, (3,), "float64", 3)[1], make(7, (3,), "float64", 3)[1]
    p, q, r = Parameter(a), Parameter(b), Parameter(c)
    o = SGD([{"params": [p]}, {"params": q, "lr": 0.5, "weight_decay": 0.1}], lr=0.25)
    o.add_param_group({"params": (x for x in [r]), "lr": 0.125, "name": "late"})
    assert [g["lr"] for g in o.param_groups] == [0.25, 0.5, 0.125]
    assert o.param_groups[2]["name"] == "late"
    p.grad, q.grad, r.grad = ga, gb, gc
    o.step()
    np.testing.assert_allclose(p.data, a - 0.25 * ga)
    np.testing.assert_allclose(q.data, b - 0.5 * (gb + 0.1 * b))
    np.testing.assert_allclose(r.data, c - 0.125 * gc)


def test_the_callers_group_is_not_changed():
    group = {"params": [Parameter([1.0])]}
    SGD([group], lr=0.1)
    assert group.keys() == {"params"}


def test_zero_grad():
    p, q = Parameter([1.0]), Parameter([1.0])
    o = SGD([p, q], lr=0.1)
    p.grad = kept = np.ones(1, np.float32)
    o.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0] and kept.tolist() == [1] and q.grad is None
    o.zero_grad()
    assert p.grad is None


@pytest.mark.host  # writes into arrays
@pytest.mark.parametrize("owner", ["module", "optimiser"])
def test_zeros_are_zeros_whatever_the_weights_and_gradients_are(owner):
    layer = nn.Linear(2, 1)
    layer.weight.data[0, 0], layer.weight.grad = np.nan, np.array([[np.inf, np.nan]], np.float32)
    (layer if owner == "module" else SGD(layer.parameters(), lr=0.1)).zero_grad(set_to_none=False)
    assert layer.weight.grad.tolist() == [[0, 0]] and layer.weight.grad.dtype == np.float32
    assert layer.bias.grad is None


def test_step_with_a_closure():
    p = Parameter([2.0])

    def closure():
        p.grad = np.array([3.0], np.float32)
        return "loss"

    o = SGD([p], lr=0.5)
    assert o.step(closure) == "loss"
    assert p.data.tolist() == [0.5]
    assert o.step() is None


def test_names_come_along():
    o = SGD([("weight", Parameter([1.0])), ("bias", Parameter([1.0]))])
    assert o.param_groups[0]["param_names"] == ["weight", "bias"]
    assert o.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_repr_tells_the_options():
    assert "2 parameters: lr=0.5" in repr(SGD([Parameter([1.0]), Parameter([1.0])], lr=0.5))


# ------------------------------------------------------------------------------------------------------------- state

def train(o, params, gradients):
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = g
        o.step()


@every_rule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resuming_is_exact_to_the_bit(rule, dtype):
    cls, options = RULES[rule]
    rng = np.random.default_rng(8)
    shapes = [(3, 2), (), (4,)]
    starts = [rng.normal(size=s).astype(dtype) for s in shapes]
    gradients = [[np.asarray(rng.normal(size=s), dtype=dtype) for s in shapes] for _ in range(9)]

    def groups(params):
        return [{"params": params[:1]}, {"params": params[1:], "lr": 0.03}]

    straight = [Parameter(s) for s in starts]
    train(cls(groups(straight), **options), straight, gradients)

    first = [Parameter(s) for s in starts]
    o = cls(groups(first), **options)
    train(o, first, gradients[:4])
    saved = o.state_dict()
    frozen = copy.deepcopy(saved)
    second = [Parameter(p) for p in first]
    resumed = cls(groups(second), lr=0.7)  # the saved options win
    resumed.load_state_dict(saved)
    train(o, first, gradients[4:])
    train(resumed, second, gradients[4:])

    for a, b, c in zip(straight, first, second, strict=True):
        assert np.array_equal(a.data, b.data)
        assert np.array_equal(a.data, c.data)
    assert repr(saved) == repr(frozen), "training went on in the saved arrays"


def test_state_dict_has_pytorchs_layout():
    p, q = Parameter([1.0, 2.0]), Parameter([3.0])
    o = Adam([{"params": [p]}, {"params": [q]}], lr=0.5)
    p.grad, q.grad = np.ones(2, np.float32), np.ones(1, np.float32)
    o.step()
    saved = o.state_dict()
    assert saved.keys() == {"state", "param_groups"}
    assert [g["params"] for g in saved["param_groups"]] == [[0], [1]]
    assert saved["state"].keys() == {0, 1}
    assert saved["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert type(saved["state"][0]["exp_avg"]) is np.ndarray


def test_loaded_arrays_take_the_parameters_dtype():
    p = Parameter(np.zeros(2))
    o = SGD([p], momentum=0.9)
    p.grad = np.ones(2)
    o.step()
    q = Parameter(np.zeros(2, np.float32))
    new = SGD([q], momentum=0.9)
    new.load_state_dict(o.state_dict())
    assert new.state[q]["momentum_buffer"].dtype == np.float32


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s.pop("state"), "expected a dict with 'state' and 'param_groups'"),
        (lambda s: s["param_groups"].append({"params": []}), r"saved groups have \[2, 0\] parameters, this.*\[2\]"),
        (lambda s: s["param_groups"][0]["params"].pop(), r"saved groups have \[1\] parameters"),
        (lambda s: s["param_groups"][0].pop("betas"), "no betas. Was it saved by another optimiser than Adam"),
        (lambda s: s["state"][1].update(exp_avg=np.zeros(3)), r"exp_avg of parameter 1 of group 0 has shape \(3,\)"),
        (lambda s: s["state"].update({5: {}}), "entry for parameter 5"),
    ],
)
def test_a_bad_state_dict_is_refused_and_changes_nothing(spoil, message):
    p, q = Parameter([1.0, 2.0]), Parameter([3.0])
    o = Adam([p, q], lr=0.5)
    train(o, [p, q], [[np.ones(2, np.float32), np.ones(1, np.float32)]])
    before = repr(o.state_dict())
    saved = o.state_dict()
    saved["state"][0]["exp_avg"] += 1
    spoil(saved)
    with pytest.raises(ValueError, match=message):
        o.load_state_dict(saved)
    assert repr(o.state_dict()) == before


# ------------------------------------------------------------------------------------------------------------ errors

def computed():
    from minicnn.engine import Op, apply

    return apply(Op("double", lambda x: (2 * x, None), lambda g, saved, needs: (2 * g,)), Parameter([1.0]))


SAME = Parameter([1.0])


@pytest.mark.parametrize(
    "params, error, message",
    [
        (list, ValueError, "empty list.*model.parameters.. again"),
        (lambda: (p for p in ()), ValueError, "empty list"),
        (lambda: [{"params": (p for p in ())}], ValueError, "group 0: params is an empty list: a generator"),
        (lambda: SAME, TypeError, r"params is a Parameter, and must be a list.*\[tensor\]"),
        (lambda: {"params": [SAME]}, TypeError, r"params is a dict"),
        (lambda: 3, TypeError, "params is a int"),
        (lambda: type("Net", (), {"parameters": list, "__iter__": lambda s: iter([])})(), TypeError, "is a Net"),
        (lambda: {SAME}, TypeError, "params is a set"),
        (lambda: [{"params": {SAME}}], TypeError, "params is a set"),
        (lambda: [{"lr": 1.0}], TypeError, "with the key 'params'"),
        (lambda: [{"params": [SAME]}, [SAME]], TypeError, "group 1 must be a dict"),
        (lambda: [np.ones(3)], TypeError, r"params\[0\] is array"),
        (lambda: [SAME, computed()], ValueError, r"params\[1\] was computed, by double"),
        (lambda: [Tensor(np.arange(3))], TypeError, "is int64"),
        (lambda: [Parameter(np.ones(3, complex))], TypeError, "is complex128"),
        (lambda: [SAME, Parameter([2.0]), SAME], ValueError, r"params\[2\], of shape \(1,\), was given before"),
        (lambda: [{"params": [SAME]}, {"params": [SAME]}], ValueError, r"group 1: params\[0\], .* was given before"),
        (lambda: [("a", SAME), Parameter([2.0])], ValueError, "1 of 2 params have names"),
        (lambda: [("conv1.weight", np.ones(3))], TypeError, r"params\[0\] \(conv1.weight\) is array"),
        (lambda: [{"params": [SAME], "lr": -0.5}], ValueError, "lr is -0.5, and must be at least 0"),
    ],
)
def test_bad_parameters(params, error, message):
    with pytest.raises(error, match=message):
        SGD(params(), lr=0.1)


@pytest.mark.parametrize(
    "cls, options, error, message",
    [
        (SGD, {"lr": -0.1}, ValueError, "SGD: lr is -0.1, and must be at least 0"),
        (SGD, {"lr": math.nan}, ValueError, "lr is nan"),
        (SGD, {"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
        (SGD, {"lr": None}, TypeError, "lr must be a number, got None"),
        (SGD, {"momentum": -1}, ValueError, "momentum is -1"),
        (SGD, {"weight_decay": -1}, ValueError, "weight_decay is -1"),
        (SGD, {"dampening": "x"}, TypeError, "dampening must be a number"),
        (SGD, {"nesterov": True}, ValueError, "nesterov=True with momentum=0.0 and dampening=0"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "nesterov=True with"),
        (Adam, {"lr": -1}, ValueError, "Adam: lr is -1"),
        (Adam, {"eps": -1}, ValueError, "eps is -1"),
        (Adam, {"weight_decay": -1}, ValueError, "weight_decay is -1"),
        (Adam, {"betas": (1.0, 0.9)}, ValueError, r"betas is \(1.0, 0.9\), and must be at least 0 and less than 1"),
        (Adam, {"betas": (0.9, -0.1)}, ValueError, r"betas is \(0.9, -0.1\)"),
        (Adam, {"betas": (0.9,)}, ValueError, "must be two numbers"),
        (Adam, {"betas": 0.9}, ValueError, "must be two numbers"),
        (AdamW, {"lr": -1}, ValueError, "AdamW: lr is -1"),
        (RMSprop, {"lr": -1}, ValueError, "RMSprop: lr is -1"),
        (RMSprop, {"alpha": -1}, ValueError, "alpha is -1"),
        (RMSprop, {"eps": -1}, ValueError, "eps is -1"),
        (RMSprop, {"momentum": -1}, ValueError, "momentum is -1"),
        (RMSprop, {"weight_decay": -1}, ValueError, "weight_decay is -1"),
    ],
)
def test_bad_options(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls([Parameter([1.0])], **options)


@pytest.mark.parametrize(
    "gradient, error, message",
    [
        (np.ones((1,), np.float32), ValueError, r"bias of shape \(2,\) has a gradient of shape \(1,\)"),
        (Tensor(np.ones(2, np.float32)), TypeError, "expected a NumPy or CuPy array, got Tensor"),
    ],
)
def test_a_bad_gradient_is_refused_before_anything_is_updated(gradient, error, message):
    p, q = Parameter([1.0, 2.0]), Parameter([3.0, 4.0])
    o = SGD([("weight", p), ("bias", q)], lr=0.1)
    p.grad, q.grad = np.ones(2, np.float32), gradient
    with pytest.raises(error, match=message):
        o.step()
    assert p.data.tolist() == [1, 2]


def test_a_refused_group_leaves_the_others_as_they_were():
    o = SGD([Parameter([1.0])])
    with pytest.raises(ValueError):
        o.add_param_group({"params": [Parameter([2.0])], "momentum": -1})
    assert len(o.param_groups) == 1


# ------------------------------------------------------------------------------------------- PyTorch, where installed

@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=15)
@given(data=st.data())
def test_equals_pytorch(name, dtype, data):
    torch = pytest.importorskip("torch")
    cls, _, strategy = CASES[name]
    options, seed = data.draw(strategy), data.draw(st.integers(0, 2**32))
    start, gradients = make(seed, (3, 5), dtype, 30)
    got, _, o = run(cls, start, gradients, options)

    q = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = getattr(torch.optim, name)([q], **options)
    want = []
    for i, g in enumerate(gradients):
        q.grad = torch.from_numpy(g.copy())
        theirs.step()
        want.append(q.detach().numpy().copy())
        if i == 14:
            midway = copy.deepcopy(theirs.state_dict())
    allowed = tolerance(want, 30, dtype)
    assert np.abs(got - want).max() <= allowed

    # The same names in the saved state, and theirs can be loaded.
    ours, other = o.state_dict(), theirs.state_dict()
    assert {k: set(v) for k, v in ours["state"].items()} == {k: set(v) for k, v in other["state"].items()}
    r = Parameter(want[14])
    resumed = cls([r])
    resumed.load_state_dict(midway)
    for g in gradients[15:]:
        r.grad = g
        resumed.step()
    assert np.abs(r.data - want[-1]).max() <= allowed
