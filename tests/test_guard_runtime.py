"""The guard in NumPy by itself: copies, later candidates, hostile results, numbers read from an export."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_guard import KNOWN, LARGE, LONG, beliefs_of, played, task, twin
from test_surrogate import FEATURES, GUARDED, LEARNED

from hyprl_jax.config import SurrogateConfig
from hyprl_jax.errors import InputError
from hyprl_jax.runtime.belief import Beliefs, Posterior


def test_no_share_is_no_guard_and_a_cold_start_has_none() -> None:
    story = task(0, "unlike")[0]
    assert len(twin(story, GUARDED)._processes) == 2
    for posterior in (
        twin(story, LEARNED),
        twin(story, SurrogateConfig(prior="constant")),
        twin(story._replace(peers=np.zeros(KNOWN, bool)), GUARDED),
    ):
        assert len(posterior._processes) == 1
        for belief, _ in played(posterior, story):
            assert all(np.isfinite(part).all() for part in belief)


@given(
    st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=8),
    st.sampled_from([0.0, 1e-9, 4.0, 1e5]),
    st.sampled_from([1e-9, 0.2, 1.0]),
)
def test_whatever_is_told_leaves_finite_beliefs(values: list[float], freedom: float, share: float) -> None:
    config = dataclasses.replace(GUARDED, freedom=freedom, guard_share=share)
    posterior = twin(task(0, "like")[0], config)
    for column, value in enumerate(values):
        posterior.update(column, value)
        belief = posterior.believe(np.arange(LARGE) > column)
        for part in (belief.mean, belief.deviation, belief.acquisition, belief.gains):
            assert np.isfinite(part).all()


def agree(one: Posterior, other: Posterior, legal: np.ndarray) -> None:
    """Both believe the same of all candidates."""
    ours, theirs, everything = one.believe(legal), other.believe(legal), np.arange(len(legal))
    for name, part in ours._asdict().items():
        np.testing.assert_allclose(part, getattr(theirs, name), rtol=1e-7, atol=1e-9, err_msg=name)
    features = other.features(theirs, everything)
    np.testing.assert_allclose(one.features(ours, everything), features, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("before", [0, 1, 4, LONG])
@pytest.mark.parametrize("kind", ["unlike", "far"])
def test_candidates_that_come_later_are_believed_as_if_they_had_been_there(before: int, kind: str) -> None:
    """Replaced and added after some trials, with more to come."""
    story, values = task(3, kind)
    columns = np.concatenate([story.actions, np.setdiff1d(np.arange(LARGE), story.actions)])
    surfaces = story.surfaces.astype(np.float64)
    first = np.concatenate([columns[:12], np.full(4, columns[0])])  # the last four will be replaced
    late, whole = twin(story, GUARDED, first), twin(story, GUARDED, columns)
    for place in range(before):
        late.update(place, values[columns[place]])
        whole.update(place, values[columns[place]])
    late.replace(np.arange(12, 16), story.encodings[columns[12:16]], surfaces[:, columns[12:16]])
    added = late.append(story.encodings[columns[16:]], surfaces[:, columns[16:]])
    assert added.tolist() == list(range(16, LARGE)) and late.size == LARGE
    legal = np.arange(LARGE) >= before
    agree(late, whole, legal)
    for place in range(before, LARGE):  # longer than the room that is made at first
        late.update(place, values[columns[place]])
        whole.update(place, values[columns[place]])
    agree(late, whole, legal)


def test_what_happens_to_a_copy_leaves_the_original_as_it_was() -> None:
    story, values = task(5, "unlike")
    legal = np.ones(LARGE, bool)
    original, fresh = twin(story, GUARDED), twin(story, GUARDED)
    for column in range(5):
        original.update(column, values[column])
        fresh.update(column, values[column])
    for posterior in (original.copy(), original.copy().copy()):
        agree(posterior, fresh, legal)
        posterior.update(7, values[7] + 3.0)
        posterior.replace(np.asarray([9]), np.ones((1, FEATURES)), np.ones((KNOWN, 1)))
        posterior.append(np.ones((2, FEATURES)), np.ones((KNOWN, 2)))
        assert posterior.size == LARGE + 2 and posterior.trial == 6
        agree(original, fresh, legal)
    kept = original.copy()
    before = kept.believe(legal)
    original.update(8, -4.0)
    assert np.abs(original.believe(legal).mean - before.mean).max() > 0.01
    agree(kept, fresh, legal)


# ---- what is read from an export

NUMBERS = beliefs_of(GUARDED)._asdict()


def test_four_editions_of_the_numbers_are_read() -> None:
    assert Beliefs.from_dict(NUMBERS, "here") == beliefs_of(GUARDED)
    first, second, third = ({name: NUMBERS[name] for name in Beliefs._fields[:n]} for n in (8, 13, 15))
    assert list(NUMBERS)[13:] == ["guard_share", "guard_variance", "denoise"]
    for older in (first, second, third):
        found = Beliefs.from_dict(older, "here")
        assert found.guard_share == older.get("guard_share", 0.0) and found.denoise == 0.0
        assert found._asdict() == {**Beliefs._field_defaults, **older}
    assert Beliefs.from_dict(second, "here").freedom == GUARDED.freedom


def test_an_edition_without_a_guard_means_what_it_meant() -> None:
    story = task(2, "unlike")[0]
    second = {name: NUMBERS[name] for name in Beliefs._fields[:13]}
    posterior, bare = twin(story, LEARNED), twin(story, LEARNED)
    posterior.beliefs = Beliefs.from_dict(second, "here")
    for (ours, _), (theirs, _) in zip(played(posterior, story), played(bare, story), strict=True):
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        np.testing.assert_array_equal(ours.acquisition, theirs.acquisition)


@pytest.mark.parametrize("missing", Beliefs._fields[:-1])  # the last is what the third edition lacks
def test_numbers_of_no_edition_are_refused(missing: str) -> None:
    with pytest.raises(InputError, match="here: the numbers of the surrogate are not prior"):
        Beliefs.from_dict({name: value for name, value in NUMBERS.items() if name != missing}, "here")
    with pytest.raises(InputError, match="here"):
        Beliefs.from_dict({**NUMBERS, "more": 1.0}, "here")


@pytest.mark.parametrize("name", ["guard_share", "guard_variance", "denoise"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 1e7, None, True, "0.2", [0.2]])
def test_numbers_of_the_guard_must_be_numbers(name: str, value: object) -> None:
    with pytest.raises(InputError, match="here: the surrogate has numbers that are not finite or not in"):
        Beliefs.from_dict({**NUMBERS, name: value}, "here")


def test_a_share_is_at_most_one_and_a_variance_above_nothing() -> None:
    for wrong in ({"guard_share": 1.01}, {"denoise": 1.01}, {"guard_variance": 0.0}, {"guard_variance": 0}):
        with pytest.raises(InputError, match="here"):
            Beliefs.from_dict({**NUMBERS, **wrong}, "here")
    for sound in ({"guard_share": 0.0}, {"denoise": 1.0}, {"guard_share": 1}, {"guard_variance": 5.0}):
        assert Beliefs.from_dict({**NUMBERS, **sound}, "here")._asdict() == {**NUMBERS, **sound}
