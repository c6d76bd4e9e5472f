"""Grade again what was graded, on the inputs it was graded on."""

from dataclasses import replace

from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.classroom.runs.console import watched
from ctkd_lessons.course.classroom.runs.handed_in import Class, fingerprint, rules_of, shown
from ctkd_lessons.course.classroom.runs.journal import Journal
from ctkd_lessons.course.classroom.runs.parts import Parts, opened_workers, the_parts
from ctkd_lessons.course.classroom.runs.pool import completed
from ctkd_lessons.course.classroom.submission import Task
from ctkd_lessons.course.lessons import CourseError


def replay(of: Class, jobs: int | None = None, dask: str = "", parts: Parts | None = None) -> bool:
    """Say whether the marks come out the same, and return it. Writes nothing."""
    parts = parts or the_parts()
    todo, before = _what_to_replay(of)
    different = []
    with opened_workers(parts, of, jobs, dask) as workers:
        for task, result in watched(completed(todo, parts.grade, workers), len(todo)):
            different += [] if _marks(result) == _marks(before[task.student]) else [shown(task.student)]
    if different:
        print(f"{len(different)} of {len(todo)} marks differ: {', '.join(sorted(different))}.")
    else:
        print(f"All {len(todo)} marks are the same." if len(todo) > 1 else "The marks are the same.")
    return not different


def _what_to_replay(of: Class) -> tuple[list[Task], dict[str, Result]]:
    """Return the tasks, each with its seed of then, and the results of then; name what cannot be replayed."""
    entries = Journal(of.journal).entries
    tasks = {task.student: task for task in of.chosen(of.tasks())}
    todo = []
    for student, entry in sorted(entries.items()):
        task = tasks.get(student)
        if task and fingerprint(task) == entry.task:
            todo.append(replace(task, seed=entry.result.seed))
        elif task or not of.students:
            print(f"– {shown(student)}: skipped; what was graded is no longer there.")
    if not todo:
        raise CourseError(f"There is nothing to replay: {of.journal} holds no result for what was handed in.")
    rules = rules_of(of.lesson.name, of.private)
    others = sum(entries[task.student].rules != rules for task in todo)
    if others:
        print(f"{others} were graded with other exercises, or another --private file; their marks may differ for that.")
    return todo, {student: entry.result for student, entry in entries.items()}


def _marks(result: Result) -> tuple[object, ...]:
    return result.state, [(mark.exercise, mark.points, mark.verdict, mark.mistakes) for mark in result.marks]
