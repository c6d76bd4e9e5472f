"""What the learner's saved notebooks show: read from the outputs of their check cells, nothing else."""

from dataclasses import dataclass

from ctkd_lessons.course.exercises import of_lesson
from ctkd_lessons.course.lessons import CourseError, Lesson, read_notebook


@dataclass(frozen=True)
class Standing:
    """How one exercise stands: "passed", "wrong", "not attempted" or "not checked yet"."""

    exercise: str
    title: str
    verdict: str


def standings(lesson: Lesson) -> list[Standing] | str:
    """Return how every exercise of a lesson stands, or in words why nothing can be said."""
    if not lesson.work.exists():
        return f"not started: ctkd start {lesson.number}"
    try:
        notebook = read_notebook(lesson.work)
    except CourseError as error:
        return str(error)
    verdicts = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get("ctkd", {})
            if "exercise" in record:
                verdicts[record["exercise"]] = record["verdict"]
    exercises = of_lesson(lesson.number)
    return [Standing(one.id, one.title, verdicts.get(one.id, "not checked yet")) for one in exercises]
