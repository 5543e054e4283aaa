"""scikit-learn's own checks of estimators, on the search around the estimators with which scikit-learn checks
its own searches. The only expected failure is one that scikit-learn expects of `RandomizedSearchCV` too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from hyprl_jax.frontends import HypRLSearchCV

pytestmark = [
    pytest.mark.filterwarnings("ignore:The total space of parameters 2 is smaller:UserWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
    # scikit-learn looks for the type of a target that holds an infinity
    pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning"),
]

# The search passes a column as y on as it is: where no estimator complains, neither does the search.
EXPECTED_FAILURES = {"check_supervised_y_2d": "DataConversionWarning not caught"}
REGRESSORS = (
    (Ridge(), {"alpha": [0.1, 1.0]}),
    (Pipeline([("pca", PCA()), ("ridge", Ridge())]), {"ridge__alpha": [0.1, 1.0]}),
)
CLASSIFIERS = (
    (LogisticRegression(), {"C": [0.1, 1.0]}),
    (
        Pipeline([("pca", PCA()), ("logisticregression", LogisticRegression())]),
        {"logisticregression__C": [0.1, 1.0]},
    ),
)


def checks(searched: Any, expected_failures: dict[str, str]) -> list[Any]:
    """One parameter for pytest per check; those of the array API need libraries that are not installed."""
    found = []
    for estimator, grid in searched:
        search = HypRLSearchCV(estimator, grid, cv=2, error_score="raise", random_state=0)
        for one, check in estimator_checks_generator(search):
            name = check.func.__name__
            reason = expected_failures.get(name)
            marks = (
                () if reason is None else pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
            )
            if not name.startswith("check_array_api"):
                found.append(pytest.param(one, check, id=f"{type(estimator).__name__}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("search", "check"), checks(REGRESSORS, EXPECTED_FAILURES))
def test_check_of_regressors(search: HypRLSearchCV, check: Callable[[Any], None]) -> None:
    check(search)


@pytest.mark.slow
@pytest.mark.parametrize(("search", "check"), checks(CLASSIFIERS, {}))
def test_check_of_classifiers(search: HypRLSearchCV, check: Callable[[Any], None]) -> None:
    check(search)
