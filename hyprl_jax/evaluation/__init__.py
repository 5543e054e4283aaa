"""How well methods tune: from what they played to trajectories, figures with intervals, tests, tables, plots.

    frames = [trajectories(tables, split.test, played) for played in everything_played]
    summary = summarize(frames, split="kfold5", fold=0)
    write_evaluation("runs/mine/evaluation", frames, summary)

Everything here is NumPy and pandas on the host and knows nothing about how the methods work;
`evaluation.play` runs them.
"""

from hyprl_jax.evaluation.comparison import Comparison, compare
from hyprl_jax.evaluation.metrics import (
    average_ranks,
    incumbent_curve,
    normalized_regret,
    table_bounds,
    time_to_target,
    wins_ties_losses,
)
from hyprl_jax.evaluation.protocol import COLUMNS, NOTHING_LEFT, Failure, Played, trajectories
from hyprl_jax.evaluation.report import (
    read_evaluation,
    read_summary,
    read_trajectories,
    rebuild_report,
    write_evaluation,
)
from hyprl_jax.evaluation.statistics import bootstrap_interval, rank_tests
from hyprl_jax.evaluation.summary import check_summary, combine_folds, summarize
from hyprl_jax.evaluation.table import console_table, markdown_table

__all__ = [
    "COLUMNS",
    "NOTHING_LEFT",
    "Comparison",
    "Failure",
    "Played",
    "average_ranks",
    "bootstrap_interval",
    "check_summary",
    "combine_folds",
    "compare",
    "console_table",
    "incumbent_curve",
    "markdown_table",
    "normalized_regret",
    "rank_tests",
    "read_evaluation",
    "read_summary",
    "read_trajectories",
    "rebuild_report",
    "summarize",
    "table_bounds",
    "time_to_target",
    "trajectories",
    "wins_ties_losses",
    "write_evaluation",
]
