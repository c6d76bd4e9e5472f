"""Grade one submission: run it in the sandbox, compare outside, say what it earned and why."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from ctkd_lessons.course.classroom.box.plain import pack, unpack
from ctkd_lessons.course.classroom.box.rooms import Furnished, exercises_of, rooms
from ctkd_lessons.course.classroom.box.sandbox import Limits, Outcome, run
from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.classroom.submission import Task, cells_to_run, notebook
from ctkd_lessons.course.comparing import differs, equal_values, same
from ctkd_lessons.course.examine import cases_of, expected_of, judge, read
from ctkd_lessons.course.exercises.description import Case, Exercise, Observation
from ctkd_lessons.course.lessons import CourseError, Lesson, find, read_notebook

REASONS = {
    "time": "It did not end within {0.seconds:g} s.",
    "memory": "It took more than {0.memory:,} bytes of memory.",
    "output": "It printed more than {0.printed:,} bytes.",
    "answers": "Its answers have more than {0.answers:,} bytes.",
    "died": "Its process ended before its time: it was killed, left by `os._exit`, or crashed.",
}
STOPPED = {
    "time": "`{name}` did not end within {0.exercise_seconds:g} s. Look for an endless loop.",
    "exit": "`{name}` ended the process it ran in.",
}


def grade(task: Task) -> Result:
    """Grade a submission; whatever it is, the result says how it ended."""
    start = time.perf_counter()
    lesson = find(task.lesson)
    exercises = exercises_of(lesson, task.private)
    reason, notes, marks = task.problem, list(task.notes), {}
    if not reason:
        try:
            cells, changes = cells_to_run(notebook(task.content), read_notebook(lesson.solution))
            notes += changes
            reason = _run_rooms(task, lesson, cells, notes, marks)
        except CourseError as error:
            reason = str(error)
    made = tuple(_writable(marks.get(one.id) or _none(one, "stopped", "Not graded.")) for one in exercises)
    seconds = round(time.perf_counter() - start, 2)
    state = "failed" if reason else "graded"
    told = _text(reason), tuple(map(_text, notes))
    return Result(task.student, task.lesson, state, *told, made, task.seed, task.digest, seconds, _text(task.submitted))


def _writable(mark: Mark) -> Mark:
    return replace(mark, headline=_text(mark.headline), details=tuple(map(_text, mark.details)))


def _text(words: str) -> str:
    """Return a student's words as a file can hold them: JSON may carry half a character."""
    return words.encode(errors="replace").decode()


def _run_rooms(task: Task, lesson: Lesson, cells: list[str], notes: list[str], marks: dict[str, Mark]) -> str:
    """Run the notebook once per room; fill in the marks; return why it failed, or ""."""
    limits = Limits(seconds=task.seconds)
    exercises = {exercise.id: exercise for exercise in exercises_of(lesson, task.private)}
    for number, room in enumerate(rooms(lesson, task.private)):
        asked = [exercises[name] for name in room.ids]
        outcome = run(room.files, _request(room, asked, cells, task.seed), limits)
        if not any("ready" in event for event in outcome.events):
            last = (outcome.printed.strip().splitlines() or ["it printed nothing"])[-1]
            raise RuntimeError(f"the sandbox did not start: {last}")
        changed = _changed(outcome)
        if changed:
            marks.clear()
            return f"It changes what belongs to a library: {changed}. Look at it yourself."
        marks |= {one.id: mark for one in asked if (mark := _mark(one, outcome, task.seed, limits))}
        if not number:
            notes += _failed_cells(outcome, cells)
        if outcome.ending:
            return REASONS[outcome.ending].format(limits) + _where(outcome, cells)
    return ""


def _request(room: Furnished, asked: Sequence[Exercise], cells: list[str], seed: int) -> dict:
    exercises = [
        {
            "id": one.id,
            "name": one.name,
            "module": room.modules[one.id],
            "cases": [pack(case) for case in cases_of(one, seed)],
        }
        for one in asked
    ]
    return {"cells": cells, "exercises": exercises, "dynamo": room.dynamo}


def _mark(exercise: Exercise, outcome: Outcome, seed: int, limits: Limits) -> Mark | None:
    """Return what an exercise earned, or ``None`` where the sandbox ended before it said anything of it."""
    event = next((event for event in outcome.events if event.get("exercise") == exercise.id), None)
    if event is None:
        return None
    if "seen" in event:
        try:
            return _judged(exercise, event, seed)
        except Exception:  # noqa: BLE001 -- a forged answer may be anything; honest ones are as `watch` makes them
            return _none(exercise, "wrong", f"What came back from `{exercise.name}` cannot be read.")
    if isinstance(event.get("missing"), str):
        headline = f"`{exercise.name}` should be a function; this is of type {event['missing'][:100]}."
        return _none(exercise, "wrong", headline)
    if "missing" in event:
        return _none(exercise, "wrong", f"There is no function `{exercise.name}` after all cells have run.")
    signal = str(event.get("stopped"))[:20]
    why = STOPPED.get(signal, "`{name}` crashed ({why}).")
    return _none(exercise, "stopped", why.format(limits, name=exercise.name, why=signal))


def _judged(exercise: Exercise, event: dict, seed: int) -> Mark:
    cases, expected = cases_of(exercise, seed), expected_of(exercise, seed)
    seen = [read(exercise, _observation(one), case) for one, case in zip(event["seen"], cases, strict=True)]
    finding = judge(exercise, seen, seed, again=lambda: read(exercise, _observation(event["again"]), cases[0]))
    right = sum(differs(want, got) is None for want, got in zip(expected, seen, strict=True))
    share = 1.0 if finding.passed else credit(cases, expected, seen)
    return Mark(
        exercise.id,
        exercise.title,
        math.floor(share * exercise.points * 4) / 4,
        exercise.points,
        finding.verdict,
        finding.headline,
        finding.details,
        tuple(mistake.name for mistake in finding.mistakes),
        right,
        len(seen),
    )


def credit(cases: Sequence[Case], expected: Sequence[Observation], seen: Sequence[Observation]) -> float:
    """Return the share of an exercise's points that a wrong answer keeps.

    The mean over the inputs: 1 where everything is right, ½ where the value is right and something beside
    it is not, such as a gradient into the teacher. Below one half it is 0, for any answer meets an easy input.
    """
    share = sum(map(_part, cases, expected, seen)) / len(cases)
    return share if share >= 0.5 else 0.0


def _part(case: Case, expected: Observation, seen: Observation) -> float:
    if differs(expected, seen) is None:
        return 1.0
    given_back = any(same(expected.get("value"), value) for value in case.values())  # no art: ½ is for a computed value
    return 0.5 if equal_values([expected], [seen]) and not given_back else 0.0


def _observation(packed: object) -> Observation:
    """Return what the sandbox saw of one input; raise ``ValueError`` if it is no observation."""
    observation = unpack(packed)
    if not isinstance(observation, dict):
        raise ValueError(f"observation: expected a dict, got {type(observation).__name__}")
    if "raised" in observation:
        return {key: str(observation.get(key, ""))[:2000] for key in ("raised", "message", "line")}
    return observation


def _none(exercise: Exercise, verdict: str, headline: str) -> Mark:
    return Mark(exercise.id, exercise.title, 0.0, exercise.points, verdict, headline)


def _changed(outcome: Outcome) -> str:
    names = [name for event in outcome.events if isinstance(event.get("changed"), list) for name in event["changed"]]
    return ", ".join(dict.fromkeys(str(name)[:60] for name in names[:5]))


def _failed_cells(outcome: Outcome, cells: Sequence[str]) -> list[str]:
    """Say which cells stopped with an error: no point is lost by that alone."""
    failed = [event for event in outcome.events if "error" in event and "cell" in event]
    return [f"{_cell(event, cells)} stopped with {str(event['error'])[:300]}" for event in failed[:5]]


def _where(outcome: Outcome, cells: Sequence[str]) -> str:
    """Say what was running when the sandbox ended."""
    last = outcome.events[-1] if outcome.events else {}
    return f" {_cell(last, cells)} was running." if "cell" in last and "error" not in last else ""


def _cell(event: dict, cells: Sequence[str]) -> str:
    number = event["cell"]
    if type(number) is not int or not 0 <= number < len(cells):
        return "A cell"
    first = next((line.strip() for line in cells[number].splitlines() if line.strip()), "nothing")
    return f"The cell that begins with `{first[:60]}`"
