"""How long a class takes: 100 mixed submissions to lesson 01. Run: python tests/bench_class.py [--jobs 2]."""

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

import nbformat

from ctkd_lessons.course.classroom.runs import run
from ctkd_lessons.course.classroom.runs.handed_in import Class
from ctkd_lessons.course.classroom.runs.journal import Journal
from ctkd_lessons.course.lessons import ROOT, find, read_notebook

LESSON = find("01")
WRONG = {
    "soften": [
        "def soften(z, T):\n    return torch.softmax(z * T, -1)",
        "def soften(z, T):\n    return z.div(T).exp() / z.div(T).exp().sum(-1, keepdim=True)",
        "def soften(z, T):\n    return torch.softmax(z / T, 0)",
    ],
    "kd_loss": [
        "def kd_loss(s, t, T):\n    return F.kl_div(F.log_softmax(s / T, -1), F.softmax(t.detach() / T, -1))",
        "def kd_loss(s, t, T):\n    return T**2 * F.kl_div(F.log_softmax(s / T, -1), F.softmax(t / T, -1), "
        "reduction='batchmean')",
        "def kd_loss(s, t, T):\n    return F.mse_loss(s, t.detach())",
        "def kd_loss(s, t, T):\n    return T * F.kl_div(F.log_softmax(s, -1), F.softmax(t.detach(), -1), "
        "reduction='sum')",
    ],
    "kd_gradient_limit": [
        "def kd_gradient_limit(s, t):\n    return (s - t) / s.numel()",
        "def kd_gradient_limit(s, t):\n    return s.no_such_method()",
    ],
    "correct_bias": [
        "def correct_bias(z, label, offset):\n    z[:, label] += offset\n    return z",
        "def correct_bias(z, label, offset):\n    return z + offset",
    ],
    "balanced_offset": ["def balanced_offset(z, label, share):\n    return 0.5", "balanced_offset = None"],
    "distil": [
        "def distil(student, teacher, images, labels, steps, temperature, alpha, learning_rate):\n"
        "    broken_distil(student, teacher, images, labels, steps, temperature, alpha, learning_rate)",
        "def distil(:",
    ],
}


def main() -> None:
    """Hand in, grade, grade again, and print the times."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--students", type=int, default=100)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hand_in(Path(folder), chosen.students, random.Random(0))
        of = Class(LESSON, Path(folder) / "submitted", Path(folder) / "gradebook.db")
        start = time.monotonic()
        run.grade_class(of, jobs=chosen.jobs)
        took = time.monotonic() - start
        states = [entry.result.state for entry in Journal(of.journal).entries.values()]
    print(f"{len(states)} submissions, {states.count('graded')} graded, {took:.1f} s, {took / len(states):.2f} s each")


def hand_in(folder: Path, students: int, chance: random.Random) -> None:
    """Let students hand in: mostly honest sheets with some answers wrong, some empty, some no notebooks at all."""
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    right = {cell.id: cell.source for cell in read_notebook(LESSON.solution).cells}
    for number in range(students):
        work = read_notebook(LESSON.exercise)
        good = chance.random()
        for cell in work.cells:
            if cell.id in WRONG and chance.random() < 0.9:
                cell.source = right[cell.id] if chance.random() < good else chance.choice(WRONG[cell.id])
        place = folder / "submitted" / f"student {number:03}" / LESSON.name
        place.mkdir(parents=True)
        text = nbformat.writes(work)
        (place / f"{LESSON.name}.ipynb").write_text(text[:1000] if chance.random() < 0.03 else text, encoding="utf-8")


if __name__ == "__main__":
    main()
