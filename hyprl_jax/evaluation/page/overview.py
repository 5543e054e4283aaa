"""The beginning of the report page: what was compared, who is best and how sure that is, regret and rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyprl_jax.evaluation.findings import (
    best_last,
    emphasised,
    mean_regret,
    p_words,
    quoted_trials,
    told_apart,
)
from hyprl_jax.evaluation.page.charts import Words, legend, line_charts, lowest_words, with_bands
from hyprl_jax.evaluation.page.markup import Cell, Content, Markup, element, joined, name_of, paragraph, table
from hyprl_jax.evaluation.page.material import Material, Section, counted, enumerated, figure, pair
from hyprl_jax.evaluation.scales import LOWEST_REGRET
from hyprl_jax.evaluation.table import interval_words


def verdict(material: Material) -> Markup:
    """Who is best at the last trial and over all trials, with interval and test; where the policy stands."""
    if len(material.ordered) == 1:
        name = material.ordered[0]
        words = [name_of(name), f" alone was evaluated: {_after(material)} its mean normalized regret is "]
        return paragraph(*words, _with_interval(material, name), ".", class_="lead")
    best = best_last(material.summary)
    lead = [
        f"{_after(material).capitalize()} ",
        name_of(best),
        " has the lowest mean normalized regret: ",
        _with_interval(material, best),
        ". ",
        _certainty(material, "last_trial", best),
    ]
    first = material.ordered[0]
    mean = [
        "Averaged over all trials ",
        joined([name_of(first), f" is best with {mean_regret(material.summary, first):.4f}. "]),
        _certainty(material, "trial_mean", first),
    ]
    parts = [paragraph(*lead, class_="lead"), paragraph(*mean)]
    if emphasised(material.focus) and material.focus != best:
        parts.append(_standing(material, best))
    return joined(parts)


def _after(material: Material) -> str:
    return f"after {counted(material.trials, 'trial')}"


def _with_interval(material: Material, name: str) -> str:
    figures = material.figures(name)
    low, high = figures["ci95"][-1]
    return f"{figures['normalized_regret'][-1]:.4f} (95% interval {low:.4f} to {high:.4f})"


def _certainty(material: Material, period: str, best: str) -> Markup:
    """Which other methods a test tells apart from the best, in a sentence."""
    result = material.summary["tests"][period]
    found = told_apart(material.summary, period, best)
    if found is None:
        return joined([f"No test could be made: {result['wilcoxon_holm']['reason']}."])
    apart, near = found
    p_values = result["wilcoxon_holm"]["p_values"][best]
    words: list[Content] = []
    if near:
        least, greatest = min(p_values[name] for name in near), max(p_values[name] for name in near)
        words += [
            "It cannot be told apart from ",
            enumerated(near),
            f" ({_p(least, '=' if least == greatest else '≥')})",
        ]
    if apart:
        most = max(p_values[name] for name in apart)
        words += [
            "; it differs from " if near else "It differs from ",
            enumerated(apart),
            f" ({_p(most, '=' if len(apart) == 1 else '≤')})",
        ]
    words.append(f"; Wilcoxon-Holm over {counted(int(result['blocks']), result['over'].rstrip('s'))}.")
    contrary = [name for name in apart if _more_losses(result["wins_ties_losses"][best][name])]
    if contrary:
        verb = "is" if len(contrary) == 1 else "are"
        words += [
            " On most of them, however, ",
            enumerated(contrary),
            f" {verb} better than ",
            name_of(best),
            ".",
        ]
    return joined(words)


def _more_losses(counts: Sequence[int]) -> bool:
    return counts[2] > counts[0]


def _p(value: float, relation: str) -> str:
    words = p_words(value)
    return words if "<" in words or relation == "=" else words.replace("=", relation)


def _standing(material: Material, best: str) -> Markup:
    """How far the policy is behind the best method at the last trial."""
    focus, tests = material.focus, material.summary["tests"]["last_trial"]
    regrets = [material.figures(name)["normalized_regret"][-1] for name in (focus, best)]
    noted = tests.get("difference_to_best")
    ends = ""
    if noted is not None and noted["best"] == best:
        low, high = noted["ci95"][focus]
        ends = f" (95% interval {low:.4f} to {high:.4f})".replace("-", "−")
    words: list[Content] = [
        name_of(focus),
        f" reaches {regrets[0]:.4f}, {regrets[0] - regrets[1]:.4f}{ends} behind ",
        name_of(best),
    ]
    p_values = tests["wilcoxon_holm"]["p_values"]
    if p_values is not None:
        wins, ties, losses = tests["wins_ties_losses"][focus][best]
        counts = f": better on {wins:g}, equal on {ties:g} and worse on {losses:g} {tests['over']}"
        words.append(f"{counts} ({p_words(p_values[focus][best])})")
    return paragraph(*words, ".")


def facts(material: Material) -> Markup:
    """What was compared, as a list of terms."""
    summary = material.summary
    collections = sorted({collection for collection, _ in material.comparison.tasks})
    sizes = [sum(own == name for own, _ in material.comparison.tasks) for name in collections]
    several = len(collections) > 1
    words = [f" ({counted(size, 'task')})" if several else "" for size in sizes]
    homes = joined([joined([name_of(n), w]) for n, w in zip(collections, words, strict=True)], ", ")
    fold = summary["fold"]
    several_folds = isinstance(fold, list) and len(fold) > 1
    numbers = ", ".join(map(str, fold if isinstance(fold, list) else [fold]))
    folds = f"folds {numbers}" if several_folds else f"fold {numbers}"
    split = joined([f"{summary['split']}, " if summary["split"] else "", folds])
    single = [
        name
        for name, cube in zip(material.comparison.methods, material.comparison.regret, strict=True)
        if cube.shape[1] == 1
    ]
    seeds: Content = counted(material.comparison.seeds, "seed")
    if material.comparison.seeds > 1 and single:
        seeds = joined([seeds, " (one for ", enumerated(single), ")"])
    entries: list[tuple[str, Content]] = [
        ("Collections" if several else "Collection", homes),
        ("Split", split),
        ("Held-out tasks", str(len(summary["tasks"]))),
        ("Trials", str(material.trials)),
        ("Repetitions", seeds),
        ("Methods", enumerated(material.ordered, 30)),
        ("Uncertainty", f"{interval_words(summary)}; tests over {summary['tests']['last_trial']['over']}"),
    ]
    starts = summary.get("provenance", {}).get("starts")
    if starts:
        entries.insert(5, ("Starting points", starts))
    failures = summary.get("failures", [])
    if failures:
        entries.append(("Failures", f"{counted(len(failures), 'run')} did not finish, see below"))
    return definitions(entries)


def definitions(entries: Sequence[tuple[str, Content]]) -> Markup:
    """Terms and what they are."""
    return element(
        "dl",
        *(element(tag, part) for entry in entries for tag, part in zip(("dt", "dd"), entry, strict=True)),
    )


def curves(material: Material) -> Section:
    """Regret and rank over trials: charts beside each other, then the figures at quoted trials."""
    regrets = material.lines(material.summary["methods"], "normalized_regret", "ci95")
    ranks = material.lines(material.summary["methods"], "rank", "rank_ci95")
    ends = ", ".join(f"{line.name} {line.values[-1]:.4f}" for line in regrets)
    rank_ends = ", ".join(f"{line.name} {line.values[-1]:.2f}" for line in ranks)
    whose = "" if len(with_bands(regrets)) == len(regrets) else " (of the three best and of policies)"
    bands = f"Bands{whose}: {interval_words(material.summary)}."
    low = any((line.values < LOWEST_REGRET).any() for line in regrets)
    left = figure(
        line_charts(
            regrets,
            Words(
                "regret",
                "Mean normalized regret over trials",
                f"{_after(material).capitalize()}: {ends}.",
                "mean normalized regret (log scale, lower is better)",
            ),
            log=True,
        ),
        f"{bands} {lowest_words()}" if low else bands,
    )
    right = figure(
        line_charts(
            ranks,
            Words(
                "rank",
                "Average rank over trials",
                f"{_after(material).capitalize()}: {rank_ends}.",
                f"average rank among {counted(len(ranks), 'method')} (1 is best)",
            ),
            log=False,
        ),
        bands if any(line.ends is not None for line in ranks) else "Ties share the average of their places.",
    )
    body = joined([legend(regrets), pair(left, right), _regret_table(material), _rank_table(material)])
    return Section("curves", "Regret and rank", joined(["Regret and rank over trials"]), body)


def _regret_table(material: Material) -> Markup:
    trials = quoted_trials(material.trials)
    at = [trial - 1 for trial in trials]
    values = np.asarray(
        [
            [*(material.figures(n)["normalized_regret"][i] for i in at), mean_regret(material.summary, n)]
            for n in material.ordered
        ]
    )
    best = values <= values.min(axis=0) + 1e-12
    rows: list[list[Content | Cell]] = []
    for name, shown, marks in zip(material.ordered, values, best, strict=True):
        cells: list[Content | Cell] = [name]
        for place, (value, mark) in enumerate(zip(shown, marks, strict=True)):
            words: Content = f"{value:.4f}"
            if place < len(at):
                low, high = material.figures(name)["ci95"][at[place]]
                words = joined([words, " ", element("small", f"[{low:.3f}, {high:.3f}]")])
            cells.append(Cell(words, "best" if mark else None, float(value)))
        rows.append(cells)
    caption = f"Mean normalized regret; in brackets the {interval_words(material.summary)}"
    return table(caption, ["method", *(f"trial {trial}" for trial in trials), "mean over trials"], rows)


def _rank_table(material: Material) -> Markup:
    trials = quoted_trials(material.trials)
    ranks = np.asarray([material.figures(name)["rank"] for name in material.ordered], dtype=np.float64)
    values = np.concatenate([ranks[:, [t - 1 for t in trials]], ranks.mean(axis=1, keepdims=True)], axis=1)
    best = values <= values.min(axis=0) + 1e-12
    rows: list[list[Content | Cell]] = [
        [
            name,
            *(Cell(f"{v:.2f}", "best" if b else None, float(v)) for v, b in zip(shown, marks, strict=True)),
        ]
        for name, shown, marks in zip(material.ordered, values, best, strict=True)
    ]
    caption = f"Average rank among the {counted(len(rows), 'method')}; ties share the average of their places"
    return table(caption, ["method", *(f"trial {trial}" for trial in trials), "mean over trials"], rows)
