"""The runs behind the debugging questions: each shows its symptom, and the repaired one does not."""

import re
from functools import cache

import pytest

from ctkd_lessons.course.interview import bank, runs

# Of a run's curves: what a reader must see to find the fault.
SYMPTOMS = {
    "debugging-no-t-squared": lambda c: (
        max(c["accuracy, with the teacher"]) - c["accuracy, with the teacher"][-1] > 0.02
    ),
    "debugging-kl-reduction": lambda c: c["labels' loss"][0] / c["soft loss"][0] > 5,
    "debugging-temperature-one-side": lambda c: c["teacher's confidence"][-1] - c["mean confidence"][-1] > 0.15,
    "debugging-softmax-twice": lambda c: min(c["training loss"]) > 1.46 and c["training accuracy"][-1] > 0.95,
    "debugging-misaligned-cache": lambda c: c["KD loss"][-1] > 10 and c["validation accuracy"][-1] < 0.3,
    "debugging-exploding-loss": lambda c: c["loss"][3] > 1e6 * c["loss"][0],
    "debugging-teacher-dropout": lambda c: (
        max(abs(a - b) for a, b in zip(c["teacher, image 7"], c["teacher, image 7 again"], strict=True)) > 0.1
        and c["KD loss"][-1] > 1
    ),
    "debugging-teacher-not-detached": lambda c: c["teacher's accuracy"][0] - c["teacher's accuracy"][-1] > 0.2,
    "debugging-hint-dominates": lambda c: c["hint's term"][0] > 10 * c["labels' term"][0],
    "debugging-reversal-at-once": lambda c: c["source accuracy"][-1] < 0.85 and c["class loss"][5] > 1.8,
    "debugging-mmd-bandwidth": lambda c: all(0.028 < value < 0.036 for value in c["MMD"]),
    "debugging-three-examples": lambda c: c["n_eff"][0] < 30 and c["target accuracy"][-1] < 0.3,
    "debugging-batch-norm-domain": lambda c: c["accuracy"][-1] < 0.75 and c["accuracy"][0] > 0.95,
    "debugging-serving-statistics": lambda c: c["accuracy"][0] - c["accuracy"][-1] > 0.15,
    "debugging-chosen-on-target": lambda c: (
        c["accuracy, as reported"][-1] - c["accuracy, new target images"][-1] > 0.03
    ),
    "debugging-first-order-as-maml": lambda c: c["error"][1] > 3 * c["error"][0] and c["error"][-1] > 0.1,
    "debugging-support-scored": lambda c: min(c["1-shot accuracy, new characters"]) == 1,
}


@cache
def curves(question, broken):
    return runs.RUNS[question].train(broken)


FENCED = re.compile(r"```\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("question", runs.RUNS)
def test_broken_shows_its_symptom_and_repaired_does_not(question):
    shows = SYMPTOMS[question]
    assert shows(curves(question, True))
    assert not shows(curves(question, False))


def test_a_run_for_each_debugging_question():
    asked = {one.id: one for one in bank.questions("debugging")}
    assert set(asked) == set(runs.RUNS)
    for question, run in runs.RUNS.items():
        assert asked[question].figure == (f"{question}.png" if run.panels else "")


@pytest.mark.parametrize("question", [one for one, run in runs.RUNS.items() if run.panels])
def test_figures_are_there_and_small(question):
    file = runs.FIGURES / f"{question}.png"
    assert file.stat().st_size <= 25_000
    assert runs.Image.open(file).width == 640


@pytest.mark.parametrize("question", [one for one, run in runs.RUNS.items() if not run.panels])
def test_logs_stand_in_the_question(question):
    text = next(one.text for one in bank.questions("debugging") if one.id == question)
    logs = {language: FENCED.findall(text[language].question) for language in bank.LANGUAGES}
    assert logs["en"] == logs["zh"]
    assert len(logs["en"]) == 1
    head, *rows = logs["en"][0].strip("\n").splitlines()
    seen = curves(question, True)
    assert re.split(r"\s{2,}", head.strip()) == list(seen)
    assert [float(row.split()[0]) for row in rows] == pytest.approx(next(iter(seen.values())))


def test_log_has_a_line_per_value():
    assert runs.log({"step": [0.0, 10.0], "loss": [2.30259, 0.5]}) == "step   loss\n   0  2.303\n  10    0.5"
