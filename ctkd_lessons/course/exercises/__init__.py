"""The exercises, one module per lesson, each exercise described once for all its uses."""

from importlib import import_module

from ctkd_lessons.course.exercises.description import Exercise

# Lesson number → the module of this folder that describes its exercises in a tuple EXERCISES.
MODULES = {
    "01": "soft_targets",
    "02": "features",
    "03": "capacity",
    "04": "cross_task",
    "05": "pipeline",
    "06": "multi_task",
    "07": "conflict",
    "08": "shift",
    "09": "cross_domain",
    "10": "meta",
    "11": "meta_transfer",
}


def of_lesson(number: str) -> tuple[Exercise, ...]:
    """Return the exercises of a lesson, such as "01"; raise ``ValueError`` if it has none."""
    if number not in MODULES:
        raise ValueError(f"lesson: expected one of {', '.join(MODULES)}, got {number!r}")
    return import_module(f"{__name__}.{MODULES[number]}").EXERCISES


def find(exercise_id: str) -> Exercise:
    """Return the exercise with an id such as "01.kd_loss"; raise ``ValueError`` if there is none."""
    number = str(exercise_id).partition(".")[0]
    known = {exercise.id: exercise for exercise in of_lesson(number)}
    if exercise_id not in known:
        raise ValueError(f"exercise: expected one of {', '.join(known)}, got {exercise_id!r}")
    return known[exercise_id]
