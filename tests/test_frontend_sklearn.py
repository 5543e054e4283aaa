"""The search for scikit-learn, from the outside: results, refitting, failures, reproducibility, data that is
passed on."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import ConfigSpace
import joblib
import numpy as np
import pytest
import sklearn
from scipy.stats import randint, uniform
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GroupKFold, RandomizedSearchCV, ShuffleSplit, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import hyprl_jax
from hyprl_jax.errors import InputError
from hyprl_jax.frontends import HypRLSearchCV
from hyprl_jax.runtime import Categorical, EarlierTask, Float, Space, Tuner, default_policy, when

X, Y = (part[::3] for part in load_iris(return_X_y=True))
TREE = {"max_depth": randint(1, 6), "min_samples_leaf": randint(1, 10), "criterion": ["gini", "entropy"]}
UNIT = {"x": uniform(0, 1), "y": uniform(0, 1)}
HALF_FAILS = {"x": [0.1, 0.3, 0.5, 0.7], "y": [0.1, 0.4]}  # with a limit of 0.5
small_space = pytest.mark.filterwarnings("ignore:The total space of parameters:UserWarning")
failing = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores:UserWarning"
)


class Bowl(BaseEstimator):
    """Scores best at x = y = 0.3; fails where x is at least `limit`, there on folds that hold row 0 alone if
    `partly`."""

    def __init__(self, x: float = 0.0, y: float = 0.0, limit: float = math.inf, partly: bool = False) -> None:
        self.x, self.y, self.limit, self.partly = x, y, limit, partly

    def fit(self, X: Any, y: Any = None) -> Bowl:
        if self.x >= self.limit and (not self.partly or X[0, 0] == 0):
            raise RuntimeError("x is too large")
        return self

    def score(self, X: Any, y: Any = None) -> float:
        return 1.0 - (self.x - 0.3) ** 2 - (self.y - 0.3) ** 2


ROWS = np.arange(10.0)[:, None]


def tree_search(**options: Any) -> HypRLSearchCV:
    options = {"n_iter": 6, "cv": 3, "random_state": 0} | options
    return HypRLSearchCV(DecisionTreeClassifier(random_state=0), options.pop("space", TREE), **options)


def bowl_search(limit: float = math.inf, partly: bool = False, **options: Any) -> HypRLSearchCV:
    options = {"n_iter": 8, "cv": 2, "random_state": 0} | options
    return HypRLSearchCV(Bowl(limit=limit, partly=partly), options.pop("space", UNIT), **options)


def test_results_have_the_columns_of_scikit_learn() -> None:
    search = tree_search(return_train_score=True).fit(X, Y)
    random = RandomizedSearchCV(
        search.estimator, TREE, n_iter=6, cv=3, return_train_score=True, random_state=0
    )
    expected = random.fit(X, Y).cv_results_
    assert set(search.cv_results_) == set(expected)
    for name, column in expected.items():
        assert len(search.cv_results_[name]) == 6
        assert type(search.cv_results_[name]) is type(column)
    results = search.cv_results_
    assert [params["max_depth"] for params in results["params"]] == list(results["param_max_depth"])
    assert search.best_index_ == results["mean_test_score"].argmax() == results["rank_test_score"].argmin()
    assert search.best_score_ == results["mean_test_score"].max()
    assert search.best_params_ == results["params"][search.best_index_]
    assert search.best_estimator_.get_params() | search.best_params_ == search.best_estimator_.get_params()
    again = cross_val_score(clone(search.estimator).set_params(**search.best_params_), X, Y, cv=3)
    assert again.mean() == pytest.approx(search.best_score_)
    assert search.score(X, Y) == accuracy_score(Y, search.predict(X))
    assert search.n_splits_ == 3 and search.multimetric_ is False and search.refit_time_ >= 0


def test_the_score_is_maximised() -> None:
    search = bowl_search().fit(ROWS)
    scores = search.cv_results_["mean_test_score"]
    assert search.tuner_state_["direction"] == "maximize"
    assert [value for _, value in search.tuner_state_["results"]] == pytest.approx(list(scores))
    assert Tuner.from_state(search.tuner_state_).best.value == pytest.approx(search.best_score_)


def test_the_seed_decides() -> None:
    params = tree_search().fit(X, Y).cv_results_["params"]
    assert tree_search().fit(X, Y).cv_results_["params"] == params
    state = np.random.RandomState(0)
    assert tree_search(random_state=state).fit(X, Y).cv_results_["params"] == params
    assert bowl_search(random_state=1).fit(ROWS).best_params_ != bowl_search().fit(ROWS).best_params_


def test_several_points_at_a_time() -> None:
    search = bowl_search(n_iter=7, n_points=3).fit(ROWS)
    params = search.cv_results_["params"]
    assert len({tuple(one.items()) for one in params}) == 7
    tuner = Tuner(search.space_, direction="maximize", trials=7, seed=search.tuner_state_["seed"])
    first = tuner.ask_many(3)  # each takes the others into account
    assert params[:3] == first
    for config, score in zip(first, search.cv_results_["mean_test_score"], strict=False):
        tuner.tell(config, float(score))
    assert params[3:6] == tuner.ask_many(3)


def test_processes_change_nothing() -> None:
    one, two = (tree_search(n_points=2, n_jobs=jobs).fit(X, Y) for jobs in (1, 2))
    assert one.cv_results_["params"] == two.cv_results_["params"]
    assert list(one.cv_results_["mean_test_score"]) == list(two.cv_results_["mean_test_score"])


def test_it_is_an_estimator_like_any_other() -> None:
    search = tree_search(
        n_points=2, earlier=[[({"max_depth": 3, "min_samples_leaf": 2, "criterion": "gini"}, 0.9)]]
    )
    params = search.get_params()
    assert {"n_iter", "n_points", "policy", "metric", "earlier", "estimator__max_depth"} <= set(params)
    copy = clone(search.set_params(n_iter=3, estimator__random_state=7))
    assert copy.n_iter == 3 and copy.estimator.random_state == 7
    assert len(copy.fit(X, Y).cv_results_["params"]) == 3
    assert not hasattr(clone(copy), "best_params_")
    assert "HypRLSearchCV" in repr(copy) and "HypRLSearchCV" in copy._repr_html_()
    assert cross_val_score(tree_search(n_iter=2), X, Y, cv=2).shape == (2,)


def test_a_pipeline_with_steps_as_choices() -> None:
    pipeline = Pipeline([("scale", StandardScaler()), ("reduce", PCA()), ("model", DecisionTreeClassifier())])
    space = [
        {"scale": [StandardScaler(), MinMaxScaler(), None], "reduce__n_components": [1, 2, 3]},
        {"scale": ["passthrough"], "reduce": ["passthrough"], "model__max_depth": randint(1, 5)},
    ]
    search = HypRLSearchCV(pipeline, space, n_iter=10, cv=2, random_state=0).fit(X, Y)
    names = [frozenset(params) for params in search.cv_results_["params"]]
    assert set(names) == {frozenset(part) for part in space}
    hidden = search.cv_results_["param_model__max_depth"].mask
    assert list(hidden) == ["model__max_depth" not in params for params in names]
    assert search.best_estimator_.named_steps["scale"] is not space[0]["scale"][0]  # a copy was fitted
    json.dumps(search.tuner_state_)


def test_spaces_of_other_kinds() -> None:
    own = Space(
        [Categorical("criterion", ["gini", "entropy"]), Float("ccp_alpha", 1e-4, 1e-1, log=True)],
        conditions={"ccp_alpha": when("criterion", "gini")},
    )
    configspace = ConfigSpace.ConfigurationSpace({"max_depth": (1, 9), "criterion": ["gini", "entropy"]})
    configspace.add(ConfigSpace.ForbiddenEqualsClause(configspace["criterion"], "entropy"))
    for space, names in ((own, {"criterion", "ccp_alpha"}), (configspace, {"criterion", "max_depth"})):
        search = clone(tree_search(space=space)).fit(X, Y)
        assert set(search.space_.names) == names
        assert all(set(params) <= names for params in search.cv_results_["params"])
    assert {params["criterion"] for params in search.cv_results_["params"]} == {"gini"}


def simplest(results: dict[str, Any]) -> int:
    return int(np.argmin([params["max_depth"] for params in results["params"]]))


def two_scores(estimator: Any, X: Any, y: Any) -> dict[str, float]:
    score = accuracy_score(y, estimator.predict(X))
    return {"hits": score, "misses": 1.0 - score}


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ({"scoring": ["accuracy", "f1_macro"], "refit": "f1_macro"}, "f1_macro"),
        ({"scoring": {"a": make_scorer(accuracy_score), "b": "f1_macro"}, "refit": "a"}, "a"),
        ({"scoring": ("accuracy", "f1_macro"), "refit": False, "metric": "accuracy"}, "accuracy"),
        ({"scoring": ["accuracy", "f1_macro"], "refit": simplest, "metric": "f1_macro"}, "f1_macro"),
        ({"scoring": two_scores, "refit": "misses"}, "misses"),
        ({"scoring": two_scores, "refit": False, "metric": "hits"}, "hits"),
        ({"scoring": "f1_macro", "refit": simplest}, "score"),
        ({"scoring": make_scorer(accuracy_score), "refit": "any"}, "score"),
        ({"metric": "score"}, "score"),
    ],
)
def test_which_score_is_searched_for(options: dict[str, Any], metric: str) -> None:
    search = tree_search(**options).fit(X, Y)
    told = [value for _, value in search.tuner_state_["results"]]
    assert told == list(search.cv_results_[f"mean_test_{metric}"])
    if options.get("refit") is simplest:
        assert search.best_index_ == simplest(search.cv_results_)
    elif options.get("refit", True):
        assert search.best_index_ == np.argmax(told)
    assert hasattr(search, "best_estimator_") == (options.get("refit") is not False)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"scoring": ["accuracy", "f1_macro"], "refit": False}, "not named: name one of accuracy, f1_macro"),
        ({"scoring": ["accuracy", "f1_macro"], "refit": simplest}, "not named: name one of accuracy"),
        ({"scoring": ["accuracy"], "refit": False, "metric": "auc"}, "'auc': name one of accuracy"),
        ({"scoring": two_scores}, "not named: name one of hits, misses"),
        ({"metric": "accuracy"}, "'accuracy': name one of score"),
        ({"earlier": [[({"max_depth": 99}, 1.0)]]}, "earlier task 0"),
        ({"policy": "/there/is/none"}, "cannot be read"),
        ({"space": {"max_depth": 3}}, "put a single value into a list"),
    ],
)
def test_mistakes(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        tree_search(**options).fit(X, Y)


@pytest.mark.parametrize("option", ["n_iter", "n_points"])
def test_counts_are_checked(option: str) -> None:
    with pytest.raises(ValueError, match=f"The '{option}' parameter of HypRLSearchCV must be an int"):
        tree_search(**{option: 0}).fit(X, Y)


def test_a_configuration_that_fails_does_not_end_the_search() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search = bowl_search(limit=0.5, space=HALF_FAILS).fit(ROWS)
    results = search.cv_results_
    failed = np.array([params["x"] >= 0.5 for params in results["params"]])
    assert failed.sum() == 4 and not failed[search.best_index_]
    assert list(np.isnan(results["mean_test_score"])) == list(failed)
    assert [value is None for _, value in search.tuner_state_["results"]] == list(failed)
    assert [config for config, _ in search.tuner_state_["results"]] == results["params"]
    assert (results["rank_test_score"][failed] == 5).all()
    assert (results["mean_fit_time"] >= 0).all() and (results["mean_score_time"][failed] == 0).all()
    told = [str(one.message) for one in caught if one.category is FitFailedWarning]
    assert len(told) == 4 and all("x is too large" in text for text in told)
    assert sum("non-finite" in str(one.message) for one in caught) == 1


@failing
@pytest.mark.parametrize("n_points", [1, 2, 3])
def test_failures_with_several_points_and_scores(n_points: int) -> None:
    scoring = {"good": lambda bowl, X, y=None: bowl.score(X), "x": lambda bowl, X, y=None: bowl.x}
    options = {"scoring": scoring, "refit": "good", "n_points": n_points, "return_train_score": True}
    search = bowl_search(limit=0.5, space=HALF_FAILS, error_score=-1, **options).fit(ROWS)
    results = search.cv_results_
    for place, params in enumerate(results["params"]):
        expected = -1 if params["x"] >= 0.5 else params["x"]
        assert results["mean_test_x"][place] == results["mean_train_x"][place] == pytest.approx(expected)
    assert [value for _, value in search.tuner_state_["results"]] == list(results["mean_test_good"])
    assert list(results["mean_test_good"]).count(-1) == 4


@failing
def test_a_configuration_that_fails_on_one_fold_has_failed() -> None:
    search = bowl_search(limit=0.5, partly=True, space=HALF_FAILS).fit(ROWS)
    results = search.cv_results_
    failed = np.array([params["x"] >= 0.5 for params in results["params"]])
    assert failed.sum() == 4 and list(np.isnan(results["split1_test_score"])) == list(failed)
    assert np.isfinite(results["split0_test_score"]).all()
    assert [value is None for _, value in search.tuner_state_["results"]] == list(failed)


@failing
def test_if_everything_fails_so_does_the_search() -> None:
    with pytest.raises(ValueError, match="All the 16 fits failed"):
        bowl_search(limit=0.0).fit(ROWS)
    with pytest.raises(RuntimeError, match="x is too large"):
        bowl_search(limit=0.0, error_score="raise").fit(ROWS)
    with pytest.raises(ValueError, match="Invalid parameter 'z'"):
        bowl_search(space={"z": [1, 2]}).fit(ROWS)


def test_a_space_that_is_used_up_ends_the_search() -> None:
    with pytest.warns(UserWarning, match=r"total space of parameters 4 is smaller than n_iter=8. Running 4"):
        search = bowl_search(space={"x": [0.1, 0.2], "y": [0.3, 0.9]}, n_points=3).fit(ROWS)
    found = {(params["x"], params["y"]) for params in search.cv_results_["params"]}
    assert found == {(0.1, 0.3), (0.1, 0.9), (0.2, 0.3), (0.2, 0.9)}
    with pytest.warns(UserWarning, match="total space of parameters 1 is smaller"):
        assert bowl_search(space={}).fit(ROWS).cv_results_["params"] == [{}]


class Center(BaseEstimator):
    """Scores what its test rows are, so that other folds give another score."""

    def __init__(self, x: float = 0.0) -> None:
        self.x = x

    def fit(self, X: Any, y: Any = None) -> Center:
        return self

    def score(self, X: Any, y: Any = None) -> float:
        return float(X.mean())


def test_all_are_scored_on_the_same_folds() -> None:
    splitter = ShuffleSplit(n_splits=2, test_size=3)
    search = HypRLSearchCV(Center(), {"x": uniform(0, 1)}, n_iter=5, cv=splitter, random_state=0).fit(ROWS)
    assert len(set(search.cv_results_["split0_test_score"])) == 1
    assert len(set(search.cv_results_["split1_test_score"])) == 1


class Remembering(ClassifierMixin, BaseEstimator):
    """Insists on weights that belong to the rows."""

    def __init__(self, a: int = 0) -> None:
        self.a = a

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Remembering:
        self.classes_ = np.unique(y)
        assert sample_weight is not None and list(sample_weight) == list(X[:, 0] + 1)
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X), int)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        assert sample_weight is not None and list(sample_weight) == list(X[:, 0] + 1)
        return 0.5


@small_space
def test_weights_and_groups_are_passed_on() -> None:
    y = np.tile([0, 1], 5)
    options = {"cv": GroupKFold(2), "n_iter": 3, "random_state": 0, "error_score": "raise"}
    given = {"sample_weight": ROWS[:, 0] + 1, "groups": np.repeat([0, 1, 2, 3, 4], 2)}
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = Remembering().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = HypRLSearchCV(estimator, {"a": [1, 2]}, **options).fit(ROWS, y, **given)
    assert search.best_score_ == 0.5
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        tree_search(cv=GroupKFold(2)).fit(X, Y)
    tree_search(cv=GroupKFold(2), n_iter=2).fit(X, Y, groups=np.arange(len(Y)) % 4, sample_weight=Y + 1)


def test_without_a_target() -> None:
    search = HypRLSearchCV(KMeans(n_init=1, random_state=0), {"n_clusters": range(1, 9)}, n_iter=4, cv=2)
    assert search.fit(X).predict(X).shape == (len(X),)


def test_progress_is_printed_as_scikit_learn_does(capsys: pytest.CaptureFixture[str]) -> None:
    bowl_search(n_iter=3, verbose=2).fit(ROWS)
    printed = capsys.readouterr().out
    assert printed.count("Fitting 2 folds for each of 1 candidates, totalling 2 fits") == 3
    assert printed.count("[CV] END") == 6
    bowl_search(n_iter=3).fit(ROWS)
    assert capsys.readouterr().out == ""


class Listener:
    """A callback that notes which tasks began and ended, and how many subtasks each announced."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.most: dict[str, int | None] = {}

    def setup(self, estimator: Any, context: Any) -> None: ...

    def teardown(self, estimator: Any, context: Any) -> None: ...

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.begun.append(context.task_name)
        self.most[context.task_name] = context.max_subtasks

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        self.ended.append(context.task_name)


@failing
@pytest.mark.skipif(not hasattr(HypRLSearchCV, "set_callbacks"), reason="this scikit-learn has no callbacks")
@pytest.mark.filterwarnings("ignore:The estimator Bowl does not support callbacks:UserWarning")
def test_callbacks_hear_of_every_round() -> None:
    listener = Listener()
    bowl_search(limit=0.5, n_iter=5, n_points=2).set_callbacks(listener).fit(ROWS)
    assert sorted(listener.begun) == sorted(listener.ended)
    counts = {name: listener.begun.count(name) for name in set(listener.begun)}
    assert counts["search"] == 1 and counts["round"] == 3 and counts["candidate-split-evaluation"] == 10
    assert listener.most["search"] is None  # rounds may be smaller than asked for, then there are more
    alone = Listener()
    bowl_search(n_iter=5).set_callbacks(alone).fit(ROWS)
    assert alone.most["search"] == alone.begun.count("round") == 5


class WithoutCallbacks(HypRLSearchCV):
    """As scikit-learn calls a search before version 1.9."""

    def _run_search(self, evaluate_candidates: Any) -> None:
        super()._run_search(evaluate_candidates)


def test_callbacks_are_not_needed() -> None:
    search = WithoutCallbacks(Bowl(), UNIT, n_iter=4, cv=2, random_state=0).fit(ROWS)
    assert search.cv_results_["params"] == bowl_search(n_iter=4).fit(ROWS).cv_results_["params"]


def test_a_fitted_search_can_be_kept(tmp_path: Path) -> None:
    for space in (TREE, Space([Float("ccp_alpha", 1e-4, 1e-1, log=True)])):
        search = tree_search(space=space, policy=default_policy()).fit(X, Y)
        joblib.dump(search, tmp_path / "search.joblib")
        again = joblib.load(tmp_path / "search.joblib")
        assert list(again.predict(X)) == list(search.predict(X))
        assert again.tuner_state_ == search.tuner_state_
        assert again.cv_results_["params"] == search.cv_results_["params"]
        assert again.space_.to_dict() == search.space_.to_dict()
        assert clone(again).fit(X, Y).best_params_ == search.best_params_


def test_the_course_of_a_search_is_json() -> None:
    search = bowl_search().fit(ROWS)
    tuner = Tuner.from_state(json.loads(json.dumps(search.tuner_state_)))
    assert len(tuner.results) == 8 and not tuner.pending
    assert set(tuner.ask()) == {"x", "y"}
    assert tuner.space.to_dict() == search.space_.to_dict()


def test_policies_by_folder_and_as_objects() -> None:
    folder = Path(hyprl_jax.__file__).parent / "pretrained" / "default"
    found = [
        bowl_search(policy=policy).fit(ROWS).cv_results_["params"]
        for policy in (None, folder, str(folder), default_policy())
    ]
    assert found[1:] == found[:-1]


def test_earlier_searches_are_used() -> None:
    first = bowl_search(n_iter=20).fit(ROWS)
    pairs = list(zip(first.cv_results_["params"], first.cv_results_["mean_test_score"], strict=True))
    by_table, by_pairs = (clone(bowl_search(earlier=[task])).fit(ROWS) for task in (first.cv_results_, pairs))
    assert by_table.cv_results_["params"] == by_pairs.cv_results_["params"] != first.cv_results_["params"][:8]
    assert by_table.tuner_state_["earlier"] == first_results(first)
    with pytest.raises(InputError, match="not the search: cloning would empty it"):
        bowl_search(earlier=[first]).fit(ROWS)


def test_earlier_searches_on_similar_datasets_count_more() -> None:
    tasks = [
        EarlierTask([({"x": x / 20, "y": 0.5}, -abs(x / 20 - best)) for x in range(21)], {"rows": rows})
        for best, rows in ((0.1, 1e2), (0.15, 2e2), (0.9, 1e5), (0.95, 2e5))
    ]
    for rows, best in ((1.2e2, 0.1), (1.2e5, 0.9)):
        search = bowl_search(n_iter=2, earlier=tasks, metafeatures={"rows": rows})
        found = clone(search).fit(ROWS)
        assert abs(found.cv_results_["params"][0]["x"] - best) < 0.2
        assert Tuner.from_state(found.tuner_state_).metafeatures == {"rows": rows}
    with pytest.raises(InputError, match="'row' is unknown: use rows"):
        search.set_params(metafeatures={"row": 1.0}).fit(ROWS)


def first_results(search: HypRLSearchCV) -> list[Any]:
    return [[list(result) for result in search.tuner_state_["results"]]]


def test_searching_needs_no_jax() -> None:
    program = """
import sys
from scipy.stats import uniform
from sklearn.linear_model import Ridge
from hyprl_jax.frontends import HypRLSearchCV
X = [[float(i), float(i % 3)] for i in range(12)]
HypRLSearchCV(Ridge(), {"alpha": uniform(0, 1)}, n_iter=3, cv=2).fit(X, [row[0] for row in X])
print([name for name in ("jax", "jaxlib", "flax", "ConfigSpace") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def pages() -> list[Any]:
    text = (Path(__file__).resolve().parent.parent / "docs" / "sklearn.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [pytest.param(block, id=str(number)) for number, block in enumerate(blocks)]


@pytest.mark.parametrize("block", pages())
def test_examples_of_the_page(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "docs/sklearn.md", "exec"), {"__name__": "__page__"})
    assert capsys.readouterr().out.strip()


def test_the_page_has_its_examples() -> None:
    assert len(pages()) == 5
