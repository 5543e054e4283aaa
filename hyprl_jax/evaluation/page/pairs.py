"""The sections that set methods against each other: rank diagrams, one against all, all against all."""

from __future__ import annotations

from collections.abc import Callable

from hyprl_jax.evaluation.findings import PERIODS, SIGNIFICANT, p_words, rank_diagram
from hyprl_jax.evaluation.page.charts import Words
from hyprl_jax.evaluation.page.diagram import rank_diagrams
from hyprl_jax.evaluation.page.markup import Cell, Content, Markup, element, joined, paragraph, table
from hyprl_jax.evaluation.page.material import Material, Section, beside, block, counted, figure, pair

MISSING = "–"


def diagrams(material: Material) -> Section | None:
    """Critical-difference diagrams at the last trial and over all trials."""
    if len(material.ordered) < 2:
        return None
    blocks = []
    for period in PERIODS:
        result = material.summary["tests"][period]
        diagram = rank_diagram(material.summary, period)
        title = material.period_words(period).capitalize()
        if isinstance(diagram, str):
            blocks.append(block(title, paragraph(f"No diagram: {diagram}.", class_="note")))
            continue
        ranks = ", ".join(f"{n} {r:.2f}" for n, r in zip(diagram.methods, diagram.ranks, strict=True))
        words = Words(
            f"cd-{period.replace('_', '-')}",
            f"Critical-difference diagram, {material.period_words(period)}",
            f"Mean ranks: {ranks}. Critical difference {diagram.difference:.2f}.",
            f"mean rank over {counted(int(result['blocks']), result['over'].rstrip('s'))} (left is best)",
        )
        blocks.append(block(title, figure(rank_diagrams(diagram, words), _friedman_words(material, period))))
    note = "Bars join methods whose mean ranks Nemenyi's test does not tell apart at the 5% level."
    body = joined([paragraph(note, class_="note"), pair(*blocks)])
    return Section("ranks", "Critical differences", joined(["Critical differences of mean ranks"]), body)


def _friedman_words(material: Material, period: str) -> str:
    result = material.summary["tests"][period]["friedman"]
    if result["p_value"] is None:
        return f"No Friedman test: {result['reason']}."
    words = f"Friedman's test over all methods: {p_words(result['p_value'])}."
    rejected = result["p_value"] < SIGNIFICANT
    return (
        words if rejected else f"{words} It does not reject that all are equal, so the diagram tells little."
    )


def against(material: Material) -> Section | None:
    """One method against each other one, then all pairs: wins, ties, losses, probability of improvement."""
    if len(material.ordered) < 2:
        return None
    parts = [beside(*(_focus_table(material, period) for period in PERIODS))]
    if len(material.ordered) > 2:
        parts += [
            beside(_wins_matrix(material, period), _improvement_matrix(material, period))
            for period in PERIODS
        ]
    tests = material.summary["tests"]["last_trial"]
    words = "Differences below 1e-12 are ties."
    if "probability_of_improvement" in tests:
        words += (
            " Probability of improvement: how probable it is that the first method is better than the second"
            f" on one of the {tests['over']} drawn at random, ties counting one half."
        )
    body = joined([paragraph(words, class_="note"), *parts])
    return Section("pairs", "Method against method", joined(["Method against method"]), body)


def _focus_table(material: Material, period: str) -> Markup:
    """The method in focus against each other one, in one row."""
    tests, focus = material.summary["tests"][period], material.focus
    p_values, nemenyi = tests["wilcoxon_holm"]["p_values"], tests["nemenyi"]["p_values"]
    chances = tests.get("probability_of_improvement")
    ends = tests.get("probability_of_improvement_ci95")
    head: list[Content] = ["against", "wins", "ties", "losses"]
    head += ["probability of improvement"] if chances else []
    head += ["p (Wilcoxon-Holm)"] if p_values else []
    head += ["p (Nemenyi)"] if nemenyi else []
    rows: list[list[Content | Cell]] = []
    for other in material.ordered:
        if other == focus:
            continue
        row: list[Content | Cell] = [
            other,
            *(f"{count:g}" for count in tests["wins_ties_losses"][focus][other]),
        ]
        if chances:
            words: Content = f"{chances[focus][other]:.2f}"
            if ends:
                low, high = ends[focus][other]
                words = joined([words, " ", element("small", f"[{low:.2f}, {high:.2f}]")])
            row.append(Cell(words, None, chances[focus][other]))
        row += [_p_cell(table_[focus][other]) for table_ in (p_values, nemenyi) if table_]
        rows.append(row)
    where = material.period_words(period)
    blocks = counted(int(tests["blocks"]), tests["over"].rstrip("s"))
    caption = f"{focus} against each other method, {where} ({blocks})"
    missing = tests["wilcoxon_holm"]["reason"]
    note = [] if p_values else [paragraph(f"No pairwise test: {missing}.", class_="note")]
    return element("div", table(caption, head, rows), *note)


def _p_cell(value: float) -> Cell:
    return Cell(
        p_words(value).removeprefix("p = ").removeprefix("p "),
        "apart" if value < SIGNIFICANT else None,
        value,
    )


def _wins_matrix(material: Material, period: str) -> Markup:
    tests = material.summary["tests"][period]
    p_values = tests["wilcoxon_holm"]["p_values"]

    def cell(row: str, column: str) -> Cell:
        wins, ties, losses = tests["wins_ties_losses"][row][column]
        sure = p_values is not None and p_values[row][column] < SIGNIFICANT
        return Cell(f"{wins:g}–{ties:g}–{losses:g}", "apart" if sure else None, wins - losses)

    bold = "; bold where Wilcoxon-Holm tells them apart" if p_values is not None else ""
    return _matrix(
        material, f"Wins–ties–losses, row against column, {material.period_words(period)}{bold}", cell
    )


def _improvement_matrix(material: Material, period: str) -> Markup:
    chances = material.summary["tests"][period].get("probability_of_improvement")
    if chances is None:
        return Markup("")

    def cell(row: str, column: str) -> Cell:
        chance = chances[row][column]
        return Cell(f"{chance:.2f}", "apart" if round(chance, 2) > 0.5 else None, chance)

    where = material.period_words(period)
    return _matrix(
        material, f"Probability that the row is better than the column, {where}; bold above one half", cell
    )


def _matrix(material: Material, caption: str, cell: Callable[[str, str], Cell]) -> Markup:
    names, same = material.ordered, Cell(MISSING, "none")
    rows: list[list[Content | Cell]] = [
        [row, *(same if row == column else cell(row, column) for column in names)] for row in names
    ]
    return table(caption, ["", *names], rows, sortable=False)
