"""Distributions as hyperparameters and back, joined ranges, and conditions inferred from trials."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

optuna = pytest.importorskip("optuna")

from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hyprl_jax.frontends import HypRLSampler  # noqa: E402
from hyprl_jax.frontends.optuna_conditions import Row, infer_conditions  # noqa: E402
from hyprl_jax.frontends.optuna_space import (  # noqa: E402
    Seen,
    codec_of,
    joined_distribution,
    learn,
    middle,
    nearest,
)
from hyprl_jax.runtime import Categorical, Condition, Float, Integer, Space, when  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    return distribution._contains(distribution.to_internal_repr(value))


@st.composite
def floats(draw: st.DrawFn) -> FloatDistribution:
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    if kind == "log":
        low = draw(st.floats(1e-300, 1e300))
        return FloatDistribution(low, draw(st.floats(low, 1e301)), log=True)
    if kind == "step":
        step = draw(st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.5, 1e-3]))
        low = draw(st.integers(-1000, 1000)) * step
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The distribution is specified by")
            return FloatDistribution(low, low + draw(st.integers(0, 500)) * step, step=step)
    low = draw(st.floats(-1e305, 1e305))
    return FloatDistribution(low, draw(st.floats(low, 1e306)))


@st.composite
def integers(draw: st.DrawFn) -> IntDistribution:
    if draw(st.booleans()):
        low = draw(st.integers(1, 2**40))
        return IntDistribution(low, draw(st.integers(low, 2**60)), log=True)
    step, low = draw(st.integers(1, 1000)), draw(st.integers(-(2**52), 2**52))
    return IntDistribution(low, low + step * draw(st.integers(0, 2**20)), step=step)


CHOICE = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.floats())
CATEGORICALS = st.lists(CHOICE, min_size=1, max_size=5).map(CategoricalDistribution)
DISTRIBUTIONS = st.one_of(floats(), integers(), CATEGORICALS)


@given(DISTRIBUTIONS)
def test_middle_and_nearest_are_contained(distribution: BaseDistribution) -> None:
    value = middle(distribution)
    assert contains(distribution, value)
    if not isinstance(distribution, CategoricalDistribution):
        assert contains(distribution, nearest(distribution, -math.inf))
        assert contains(distribution, nearest(distribution, math.inf))
        assert nearest(distribution, value) == value


@given(DISTRIBUTIONS, st.floats(0.0, 1.0))
def test_labels_are_read_back(distribution: BaseDistribution, position: float) -> None:
    codec = codec_of("p", distribution)
    if codec is None:
        return
    space = Space([codec.parameter])
    (config,) = space.configs(space.from_positions(np.asarray([[position]])))
    value = codec.value(config["p"])
    assert contains(distribution, value)
    assert codec.value(codec.label(value)) == value or value != value


@given(st.lists(DISTRIBUTIONS, min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_every_suggestion_is_contained(distributions: list[BaseDistribution], seed: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Choices for a categorical")
        study = optuna.create_study(sampler=HypRLSampler(seed=seed, pool=16))
        wanted = {f"p{place}": distribution for place, distribution in enumerate(distributions)}
        for value in (1.0, 3.0, 2.0, 0.0):
            trial = study.ask(wanted)
            for name, distribution in wanted.items():
                assert contains(distribution, trial.params[name])
                if name in trial.relative_params:
                    assert contains(distribution, trial.relative_params[name])
            study.tell(trial, value)


def test_steps_are_exact() -> None:
    codec = codec_of("p", FloatDistribution(0.1, 0.9, step=0.1))
    assert codec is not None and codec.parameter == Integer("p", 0, 8)
    assert [codec.value(k) for k in (0, 2, 8)] == [0.1, 0.1 + 2 * 0.1, 0.9]
    assert codec.label(0.3) == 2 and codec.label(0.35) is None and codec.label(1.0) is None
    codec = codec_of("p", IntDistribution(1, 9, step=4))
    assert codec is not None and [codec.value(k) for k in range(3)] == [1, 5, 9]
    codec = codec_of("p", IntDistribution(2, 512, log=True))
    assert codec is not None and codec.parameter == Integer("p", 2, 512, log=True)


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(1.0, 1.0),
        IntDistribution(0, 2**60),
        IntDistribution(2**60, 2**60 + 2048, step=1024),
        FloatDistribution(-1e301, 1e301),
        FloatDistribution(1e10, math.nextafter(1e10, math.inf), log=True),
        CategoricalDistribution(["only"]),
    ],
)
def test_what_no_space_can_hold_is_not_searched(distribution: BaseDistribution) -> None:
    assert codec_of("p", distribution) is None


def test_choices_stay_as_they_are_where_they_are_plain() -> None:
    plain = codec_of("p", CategoricalDistribution(["a", 1.5, True]))
    assert plain is not None and plain.parameter.choices == ("a", 1.5, True)
    odd = codec_of("p", CategoricalDistribution(["a", None, math.nan]))
    assert odd is not None and odd.parameter.choices == (0, 1, 2)
    assert odd.value(1) is None and odd.label(None) == 1 and odd.label(math.nan) == 2
    assert odd.label("b") is None


def test_joined_ranges() -> None:
    F, N = FloatDistribution, IntDistribution
    assert joined_distribution([F(0, 1), F(0.5, 2)]) == F(0, 2)
    assert joined_distribution([F(0, 1, step=0.25), F(0.5, 2, step=0.25)]) == F(0, 2, step=0.25)
    assert joined_distribution([F(0, 1, step=0.25), F(0.1, 2.1, step=0.25)]) == F(0, 2.1)
    assert joined_distribution([F(0, 1, step=0.5), F(0, 1)]) == F(0, 1)
    assert joined_distribution([N(1, 5, step=2), N(3, 9, step=2)]) == N(1, 9, step=2)
    assert joined_distribution([N(1, 5, step=2), N(2, 8, step=2)]) == N(1, 8)
    assert joined_distribution([N(1, 5, log=True), N(2, 8, log=True)]) == N(1, 8, log=True)
    assert joined_distribution([N(1, 5, log=True), N(2, 8)]) is None
    assert joined_distribution([N(1, 5), F(1, 5)]) is None
    assert joined_distribution([CategoricalDistribution("ab"), CategoricalDistribution("abc")]) is None


PARAMETERS = {
    "optimizer": Categorical("optimizer", ["adam", "sgd", "lion"]),
    "layers": Integer("layers", 1, 4),
    "rate": Float("rate", 0.0, 1.0),
    "seeds": Integer("seeds", 0, 10**6),
    "momentum": Float("momentum", 0.0, 1.0),
    "nesterov": Categorical("nesterov", [False, True]),
    "extra": Float("extra", 0.0, 1.0),
}


def rows(*trials: dict[str, float]) -> list[Row]:
    return [Row(trial, True) for trial in trials]


def test_a_choice_explains_a_branch() -> None:
    seen = rows(
        {"optimizer": 0, "rate": 0.1},
        {"optimizer": 1, "rate": 0.3, "momentum": 0.2, "nesterov": 0},
        {"optimizer": 1, "rate": 0.2, "momentum": 0.3, "nesterov": 1, "extra": 0.1},
        {"optimizer": 0, "rate": 0.9},
    )
    conditions, optional = infer_conditions(seen, PARAMETERS)
    assert conditions["momentum"] == when("optimizer", ["sgd"]) == conditions["nesterov"]
    assert set(conditions) == {"momentum", "nesterov", "extra"} and not optional
    assert conditions["extra"] == when("nesterov", [True])


def test_thresholds_explain_what_loops_ask_for() -> None:
    seen = rows({"layers": 1}, {"layers": 3, "extra": 0.1}, {"layers": 4, "extra": 0.2}, {"layers": 2})
    assert infer_conditions(seen, PARAMETERS)[0] == {"extra": Condition("greater", "layers", (2,))}
    seen = rows({"layers": 1, "extra": 0.5}, {"layers": 3}, {"layers": 4})
    assert infer_conditions(seen, PARAMETERS)[0] == {"extra": Condition("less", "layers", (3,))}
    seen = rows({"layers": 1}, {"layers": 3, "extra": 0.1}, {"layers": 4})
    assert infer_conditions(seen, PARAMETERS)[0] == {"extra": when("layers", [3])}


def test_two_parents_together_explain_a_branch() -> None:
    seen = rows(
        *(
            {"optimizer": o, "nesterov": n, **({"extra": 0.5} if (o, n) == (1, 1) else {})}
            for o, n in itertools.product(range(3), range(2))
        )
    )
    conditions, optional = infer_conditions(seen, PARAMETERS)
    assert not optional and conditions["extra"].kind == "and"
    assert set(conditions["extra"].parts) == {when("optimizer", ["sgd"]), when("nesterov", [True])}


def test_what_nothing_explains_is_optional() -> None:
    seen = rows(
        {"optimizer": 0, "rate": 0.1, "seeds": 5}, {"optimizer": 0, "rate": 0.7, "extra": 0.5, "seeds": 9}
    )
    assert infer_conditions(seen, PARAMETERS) == ({}, {"extra"})


def test_the_parent_with_fewer_values_and_asked_for_last_is_preferred() -> None:
    seen = rows({"layers": 1, "optimizer": 0}, {"layers": 3, "optimizer": 2, "extra": 0.5})
    assert infer_conditions(seen, PARAMETERS)[0] == {"extra": when("optimizer", ["lion"])}


def test_trials_that_ended_early_do_not_show_what_is_inactive() -> None:
    seen = [Row({"optimizer": 0}, False), Row({"optimizer": 1, "extra": 0.5}, True)]
    assert infer_conditions(seen, PARAMETERS) == ({}, set())
    early = [Row({"optimizer": 1, "extra": 0.5}, False), Row({"optimizer": 0}, True)]
    assert infer_conditions(early, PARAMETERS)[0] == {"extra": when("optimizer", ["sgd"])}


@given(st.data())
def test_inferred_conditions_agree_with_all_rows(data: st.DataObject) -> None:
    kinds = {
        "a": CategoricalDistribution("xyz"),
        "b": IntDistribution(0, 5),
        "c": CategoricalDistribution("uv"),
    }
    kinds |= {"d": FloatDistribution(0.0, 1.0), "e": IntDistribution(1, 9, step=2)}
    seen = []
    for _ in range(data.draw(st.integers(1, 8))):
        names = data.draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, unique=True))
        params = {}
        for name in names:
            kind = kinds[name]
            if isinstance(kind, CategoricalDistribution):
                params[name] = data.draw(st.sampled_from(kind.choices))
            elif isinstance(kind, IntDistribution):
                params[name] = data.draw(st.sampled_from(range(kind.low, kind.high + 1, kind.step)))
            else:
                params[name] = data.draw(st.floats(0.0, 1.0))
        seen.append(Seen(params, {name: kinds[name] for name in params}, data.draw(st.booleans())))
    learned = learn(seen)
    assert learned is not None
    for trial in seen:
        config = learned.config(trial.params)
        assert config is not None
        if trial.whole:
            (back,) = learned.space.configs(learned.space.codes([config]))
            assert learned.params(back) == trial.params


def test_a_known_space_is_taken_in_its_order() -> None:
    known = Space([Integer("z", 1, 5), Float("a", 0.0, 1.0)]).to_dict()
    kinds = {"a": FloatDistribution(0.0, 1.0), "z": IntDistribution(1, 5)}
    seen = [Seen({"a": 0.5, "z": 3}, kinds, True)]
    learned, other = learn(seen, known=[{"parameters": 3}, known]), learn(seen)
    assert learned is not None and learned.space.to_dict() == known
    assert other is not None and other.space.names == ("a", "z")


def test_earlier_trials_tell_about_what_is_not_yet_known() -> None:
    wide, narrow = FloatDistribution(0.0, 9.0), FloatDistribution(0.0, 1.0)
    earlier = [Seen({"a": 5.0, "b": 0.5}, {"a": wide, "b": wide}, True)]
    learned = learn([Seen({"a": 0.5}, {"a": narrow}, False)], earlier)
    assert learned is not None and learned.search_space() == {"a": narrow, "b": wide}
    assert learn([]) is None
