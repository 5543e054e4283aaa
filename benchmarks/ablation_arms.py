"""The arms of the ablation study: the default agent with one part changed, and what each row asks.

Exploration by epsilon, targets and replay belong to `learner.ordering` `q`: arms about these start from `q`,
so that they differ from it (`against`) in one thing only. The reward `regret`, the cell `gru`, the linear
epsilon schedule and the target `lambda` are those of the default or of `q` and have no arm of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

DEFAULT = "default"


class Arm(NamedTuple):
    """The default configuration with some fields changed."""

    name: str
    part: str
    """Of the agent."""
    fields: dict[str, Any]
    """Dotted names of `TrainConfig` -> values."""
    asks: str
    """What its row of the table asks."""
    against: str = DEFAULT
    """The arm that differs from it in one thing only."""
    method: str = "policy"
    members: int = 0
    """Training seeds of the default whose Q-values are averaged (`policy_ensemble`)."""


_NOTHING = {"network.residual": False, "network.shortlist": 0}
_Q = {"learner.ordering": "q"}
_PLAIN = {f"augment.{name}": 0.0 for name in ("mixture", "warp", "noise", "rescale", "forget")}


def _rewards() -> list[Arm]:
    says = {
        "improvement": "Is a trial better paid for how much it improves the incumbent?",
        "log_regret": "Is it better paid on a logarithmic scale, where late gains count like early ones?",
        "raw": "What is it worth that rewards are in units of a task's range?",
        "hyprl": "What does the reward of the published Hyp-RL do, the change from the trial before?",
    }
    return [Arm(f"reward_{kind}", "reward", {"env.reward": kind}, asks) for kind, asks in says.items()]


def _augmentation() -> list[Arm]:
    says = {
        "mixture": "What are convex mixtures of two tasks worth?",
        "warp": "What are monotone warps of the surfaces worth?",
        "noise": "What is noise on the surfaces worth?",
        "rescale": "What is it worth to stretch the range of the surfaces?",
        "forget": "What is it worth to forget some of the known groups in an episode?",
    }
    return [Arm(f"no_{name}", "augmentation", {f"augment.{name}": 0.0}, asks) for name, asks in says.items()]


# fmt: off
ARMS: tuple[Arm, ...] = (
    Arm(DEFAULT, "default", {}, "The agent as it is (gru, reward regret, policy gradient)."),
    Arm("start", "default", {}, "What is learning worth? The acquisition function alone.", method="start"),
    Arm("cell_none", "recurrence", {"network.cell": "none"}, "What is a memory of earlier trials worth?"),
    Arm("cell_lstm", "recurrence", {"network.cell": "lstm"}, "Is an LSTM better than the GRU?"),
    Arm("cell_attention", "recurrence", {"network.cell": "attention"}, "Is attention to all trials better?"),
    Arm("encodings", "inputs", {"network.candidates": "encodings"},
        "What if the correction sees hyperparameters instead of surrogate features?"),
    Arm("both_inputs", "inputs", {"network.candidates": "both"},
        "Do hyperparameters help beside the surrogate features?"),
    Arm("no_surrogate", "inputs", {"network.candidates": "encodings", **_NOTHING},
        "What if the network sees hyperparameters alone and starts from nothing?", "no_residual"),
    Arm("metafeatures", "inputs", {"network.metafeatures": True},
        "Does the network gain from the metafeatures of the dataset?"),
    Arm("prior_mean", "prior", {"surrogate.prior": "mean"},
        "What is it worth to know how the known surfaces vary together?"),
    Arm("prior_constant", "prior", {"surrogate.prior": "constant"},
        "What are the known surfaces worth to the Gaussian process?"),
    Arm("no_leave_out", "prior", {"surrogate.leave_out": False},
        "What is it worth to leave a training task out of its own prior?"),
    Arm("no_similarity", "prior", {"surrogate.similarity": False},
        "What is it worth to weigh known tasks by the likeness of their metafeatures?"),
    Arm("certain_mean", "prior", {"surrogate.mean_variance": 0.0},
        "Should a task be able to turn out the opposite of the known ones?"),
    Arm("gaussian", "prior", {"surrogate.freedom": 0.0},
        "What is it worth that surprises widen the posterior?"),
    Arm("no_fit", "prior", {"surrogate.fit": False}, "What is it worth to fit the kernel by likelihood?"),
    Arm("tune", "prior", {"surrogate.tune": True}, "Should two numbers be tuned by playing known tasks?"),
    Arm("no_guard", "prior", {"surrogate.guard": False},
        "What does a process that knows no other task add or cost?"),
    Arm("no_denoise", "prior", {"surrogate.denoise": False},
        "What does it add or cost to smooth known surfaces where that foretells others better?"),
    Arm("no_retrieval", "prior", {"surrogate.gain_weight": 0.0},
        "What is retrieval worth in the acquisition function?"),
    *_rewards(),
    Arm("q", "learner", {**_Q}, "Is the order of candidates learned as well by Q(lambda) alone?"),
    Arm("q_n_step", "learner", {**_Q, "learner.target": "n_step"}, "Are n-step targets better?", "q"),
    Arm("q_double", "learner", {**_Q, "learner.double": True, "learner.target_period": 10},
        "Does double Q-learning with a target network help?", "q"),
    Arm("q_no_dueling", "learner", {**_Q, "network.dueling": False},
        "What is a separate head for the value of the state worth?", "q"),
    Arm("q_replay_uniform", "learner", {**_Q, "learner.replay": "uniform"}, "Does replay help?", "q"),
    Arm("q_replay_prioritised", "learner", {**_Q, "learner.replay": "prioritised"},
        "Does prioritised replay help?", "q"),
    Arm("q_epsilon_constant", "exploration", {**_Q, "learner.epsilon_schedule": "constant"},
        "What is it worth that exploration falls (linearly in `q`)?", "q"),
    Arm("q_epsilon_exponential", "exploration", {**_Q, "learner.epsilon_schedule": "exponential"},
        "Should exploration fall exponentially?", "q"),
    Arm("q_explore_uniform", "exploration", {**_Q, "learner.exploration": "uniform"},
        "What is it worth to explore in proportion to the acquisition function?", "q"),
    *_augmentation(),
    Arm("no_augmentation", "augmentation", {**_PLAIN}, "What are all five worth together?"),
    Arm("all_candidates", "augmentation", {"augment.candidates": 0},
        "What is it worth to train on random subsets of the candidates?"),
    Arm("no_residual", "correction", _NOTHING,
        "What is it worth to start from a classical acquisition function?"),
    Arm("free", "correction", {"network.residual": False},
        "What if the order within the shortlist is learned from nothing?"),
    Arm("no_shortlist", "correction", {"network.shortlist": 0},
        "What does it cost to judge only the best few candidates?"),
    *(Arm(f"ensemble_{number}", "ensemble", {}, asks, method="policy_ensemble", members=number)
      for number, asks in ((1, "The default once more, through the ensemble's code."),
                           (4, "What is averaging four training seeds worth?"),
                           (8, "What is averaging eight training seeds worth?"))),
)
# fmt: on
NAMES = tuple(arm.name for arm in ARMS)
