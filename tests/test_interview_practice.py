"""Practice of interview questions: what is kept, when it comes back, the mock interview, the terminal."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import fsrs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ctkd_lessons.course.interview import bank, coding, console, history, mock, present
from ctkd_lessons.course.interview.memory import Memory, default_path
from ctkd_lessons.course.interview.schedule import replay, suggested_rating
from ctkd_lessons.course.interview.search import matching
from ctkd_lessons.course.lessons import ROOT, CourseError, find

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
KINDS = {"soft_targets": ("concept", "derivation", "coding", "paper"), "shift": ("comparison", "debugging", "design")}
CLAIM = "01: on the same 50 digits, soft targets beat labels"


# --- a small bank of our own ------------------------------------------------------------------


def entry(topic, kind, number):
    text = {
        "question": f"Why {kind} {number}: `x` and **T²**?",
        "points": ["first point", "second point", "third point"],
        "answer": f"The model answer of {kind} {number}, with $T^2$.",
        "wrong": [{"says": "It is so.", "why": "It is not."}],
        "follow_ups": ["And then?"],
    }
    lesson = {"soft_targets": "01#idea-square", "shift": "08#idea"}[topic]
    named = {"id": f"{topic.replace('_', '-')}-{kind}-{number}", "level": number, "kind": kind, "lesson": lesson}
    more = {"exercise": "01.soften", "mistakes": ["multiplied"]} if kind == "coding" else {}
    more |= {"papers": ["hinton2015"], "claims": [CLAIM]} if kind == "paper" else {}
    return (
        named
        | more
        | {"en": text, "zh": text | {"question": f"为什么 {kind} {number}？", "points": ["甲", "乙", "丙"]}}
    )


def write_bank(folder):
    folder.mkdir()
    papers = {"hinton2015": {"authors": "Hinton et al.", "year": 2015, "title": "Distilling the knowledge"}}
    files = {"topics": {"soft_targets": {"en": "Soft targets", "zh": "软目标"}, "shift": {"en": "Shift", "zh": "偏移"}}}
    files |= {"papers": papers}
    for topic, kinds in KINDS.items():
        files[topic] = [entry(topic, kind, number) for kind in kinds for number in (1, 2, 3)]
    for name, content in files.items():
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def forget():
    for cached in (bank.topics, bank.questions, bank.papers):
        cached.cache_clear()


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "FOLDER", write_bank(tmp_path / "bank"))
    forget()
    yield bank.questions()
    forget()


@pytest.fixture
def memory(tmp_path):
    return Memory(tmp_path / "data" / "interview.sqlite")


def rated(memory, *ids, rating=3, now=START):
    return [memory.rate(one, rating, (True, False), "en", now) for one in ids]


# --- when it comes back -----------------------------------------------------------------------


def test_intervals_are_those_of_fsrs_for_a_recorded_sequence(memory):
    # (rating, hours after the last review): learning, lapses, overdue, early, the same minute
    sequence = [(3, 0), (3, 0.2), (3, 50), (1, 400), (2, 0.01), (3, 0.2), (4, 30), (3, 5), (1, 2000), (3, 0.2), (3, 99)]
    scheduler, card, now = fsrs.Scheduler(enable_fuzzing=False), fsrs.Card(), START
    for rating, hours in sequence:
        now += timedelta(hours=hours)
        card, _ = scheduler.review_card(card, fsrs.Rating(rating), now)
        assert memory.rate("one", rating, (True,), "en", now) == card.due
    kept = memory.card("one").to_dict()
    assert {**kept, "card_id": 0} == {**card.to_dict(), "card_id": 0}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 5000)), min_size=1, max_size=12))
def test_a_card_follows_from_its_reviews(sequence):
    scheduler, card, now, made = fsrs.Scheduler(enable_fuzzing=False), fsrs.Card(), START, []
    for rating, hours in sequence:
        now += timedelta(hours=hours)
        made.append((rating, now))
        card, _ = scheduler.review_card(card, fsrs.Rating(rating), now)
    assert replay(made).due == card.due
    assert replay(made).stability == card.stability


@pytest.mark.parametrize(
    ("made", "rating"),
    [((), 1), ((True,) * 4, 3), ((True, False), 2), ((True, False, False), 1), ((True, True, False), 2)],
)
def test_the_points_made_suggest_a_rating(made, rating):
    assert suggested_rating(made) == rating


def test_what_is_longest_overdue_comes_first_then_what_is_new(memory):
    rated(memory, "b", now=START + timedelta(minutes=1))
    rated(memory, "a", now=START + timedelta(minutes=2))
    rated(memory, "later", rating=4, now=START)
    assert memory.due(["new2", "a", "later", "b", "new1"], START + timedelta(hours=1)) == ["b", "a", "new2", "new1"]
    assert memory.due(["a"], START + timedelta(minutes=3)) == []
    assert memory.card("new1") is None


def test_a_clock_that_went_backwards_is_told_and_nothing_is_planned_before_the_last_review(memory):
    first = memory.rate("one", 3, (True,), "en", START)
    back = START - timedelta(days=400)
    second = memory.rate("one", 3, (True,), "en", back)
    assert second > first > START
    assert "2026-03-01" in memory.notice
    assert "clock" in memory.notice
    assert [one.when >= START for one in memory.reviews()] == [True, True]
    other = Memory(memory.path)
    assert other.notice == ""
    assert other.due(["one", "new"], back) == ["new"]
    assert "clock" in other.notice


def test_one_notice_does_not_hide_another(tmp_path):
    path = tmp_path / "interview.sqlite"
    path.write_bytes(b"x" * 5000)
    memory = Memory(path)
    memory.rate("one", 3, (True,), "en", START)
    memory.due(["one"], START - timedelta(days=1))
    memory.due(["one"], START - timedelta(days=1))
    assert "damaged-1" in memory.notice
    assert memory.notice.count("set the clock right") == 1


def test_two_clocks_that_differ_by_a_minute_are_worth_no_message(memory):
    memory.rate("one", 3, (True,), "en", START)
    memory.rate("one", 3, (True,), "en", START - timedelta(minutes=1))
    assert memory.notice == ""
    assert len(memory.reviews()) == 2


def test_a_time_without_zone_is_refused_and_another_zone_is_understood(memory):
    with pytest.raises(ValueError, match="time zone"):
        memory.rate("one", 3, (True,), "en", datetime(2026, 3, 1))
    east = START.astimezone(timezone(timedelta(hours=8)))
    memory.rate("one", 3, (True,), "en", east)
    assert memory.reviews()[0].when == START


@pytest.mark.parametrize(
    ("rating", "made", "language", "says"),
    [(0, (True,), "en", "1 .again. to 4"), (3, (1,), "en", "true or false"), (3, (True,), "fr", "en, zh")],
)
def test_a_review_that_cannot_be_is_refused_and_nothing_is_written(memory, rating, made, language, says):
    with pytest.raises(ValueError, match=says):
        memory.rate("one", rating, made, language, START)
    assert memory.reviews() == []


# --- what is kept -----------------------------------------------------------------------------


def test_another_window_sees_what_was_answered(memory):
    memory.rate("one", 2, (True, False), "zh", START, mock="m")
    review = Memory(memory.path).reviews()[0]
    assert (review.question_id, review.rating, review.made, review.language) == ("one", 2, (True, False), "zh")
    assert (review.when, review.mock) == (START, "m")


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from ctkd_lessons.course.interview.memory import Memory
name, count = sys.argv[2], int(sys.argv[3])
for place in range(count):
    memory = Memory(Path(sys.argv[1]))
    memory.rate("shared" if place % 2 else name, 3, (True,), "en", datetime.now(UTC))
    print(place, flush=True)
"""


def writer(path, name, count):
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_windows_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "interview.sqlite"
    windows = [writer(path, f"w{number}", 20) for number in range(4)]
    for window in windows:
        assert window.communicate()[1] == ""
    reviews = Memory(path).reviews()
    assert len(reviews) == 80
    assert sum(one.question_id == "shared" for one in reviews) == 40
    assert len({one.when for one in reviews if one.question_id == "shared"}) == 40


def test_threads_of_one_window_lose_nothing(memory):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: rated(memory, f"q{number % 3}"), range(40)))
    assert len(memory.reviews()) == 40


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_crash_loses_nothing_that_was_written(tmp_path):
    path = tmp_path / "interview.sqlite"
    for number in range(3):
        window = writer(path, f"w{number}", 10_000)
        told = [window.stdout.readline() for _ in range(10 + number)]
        window.send_signal(signal.SIGKILL)
        rest = window.communicate()[0].splitlines()
        memory = Memory(path)
        assert memory.notice == ""
        before = sum(10 + earlier for earlier in range(number))
        assert len(memory.reviews()) >= before + len(told) + len(rest)
    assert [path.name] == [one.name for one in tmp_path.iterdir()]


def damaged(path, how):
    memory = Memory(path)
    for number in range(200):
        rated(memory, f"question-{number}")
    whole = path.read_bytes()
    if how == "no database":
        path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    elif how == "cut short":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "a page overwritten":
        path.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    else:
        with sqlite3.connect(path) as file:
            file.execute({"a bad row": "update reviews set made = 'x'", "no table": "drop table reviews"}[how])
        file.close()
    return path.read_bytes()


@pytest.mark.parametrize("how", ["no database", "cut short", "a page overwritten", "a bad row", "no table"])
def test_a_damaged_file_is_set_aside_unchanged_with_a_message(tmp_path, how):
    path = tmp_path / "interview.sqlite"
    first = damaged(path, how)
    memory = Memory(path)
    assert memory.reviews() == []
    assert "interview.damaged-1.sqlite" in memory.notice
    rated(memory, "one")
    second = damaged(path, how)
    assert "interview.damaged-2.sqlite" in Memory(path).notice
    assert (tmp_path / "interview.damaged-1.sqlite").read_bytes() == first
    assert (tmp_path / "interview.damaged-2.sqlite").read_bytes() == second
    assert Memory(path).notice == ""


def test_damage_while_a_window_is_open_is_told_too(tmp_path):
    memory = Memory(tmp_path / "interview.sqlite")
    rated(memory, "one")
    memory.path.write_bytes(b"x" * 5000)
    rated(memory, "two")
    assert "damaged-1" in memory.notice
    assert [one.question_id for one in memory.reviews()] == ["two"]


def test_windows_that_find_a_damaged_file_at_once_lose_nothing_either(tmp_path):
    path = tmp_path / "interview.sqlite"
    path.write_bytes(b"x" * 5000)
    windows = [writer(path, f"w{number}", 5) for number in range(4)]
    for window in windows:
        assert window.communicate()[1] == ""
    assert len(Memory(path).reviews()) == 20
    assert [one.name for one in tmp_path.glob("*damaged*")] == ["interview.damaged-1.sqlite"]


@pytest.mark.parametrize("statement", ["create table another (x)", "pragma user_version = 9"])
def test_a_file_of_another_program_or_a_newer_course_is_left_alone(tmp_path, statement):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as file:
        file.execute(statement)
    file.close()
    before = path.read_bytes()
    with pytest.raises(CourseError, match="CTKD_INTERVIEW"):
        Memory(path)
    assert path.read_bytes() == before


def test_a_place_where_nothing_can_be_kept_is_said(tmp_path):
    with pytest.raises(CourseError, match="CTKD_INTERVIEW"):
        Memory(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="CTKD_INTERVIEW"):
        Memory(tmp_path / "file" / "interview.sqlite")


def test_the_file_lies_where_the_user_says_or_in_their_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CTKD_INTERVIEW", str(tmp_path / "here"))
    assert default_path() == tmp_path / "here"
    monkeypatch.delenv("CTKD_INTERVIEW")
    assert default_path().parts[-2:] == ("ctkd", "interview.sqlite")
    assert ROOT not in default_path().parents


# --- from one machine to another --------------------------------------------------------------


def test_import_merges_and_never_doubles(tmp_path):
    here, there = Memory(tmp_path / "here.sqlite"), Memory(tmp_path / "there.sqlite")
    memories = (here, there)
    rated(here, "a", "b")
    here.export(tmp_path / "one.json")
    assert there.import_(tmp_path / "one.json") == 2
    assert there.import_(tmp_path / "one.json") == 0
    rated(here, "a", rating=1, now=START + timedelta(days=2))
    rated(there, "a", rating=4, now=START + timedelta(days=1))
    for number, (one, other) in enumerate((memories, memories[::-1])):
        one.export(tmp_path / f"back{number}.json")
        assert other.import_(tmp_path / f"back{number}.json") == 1
    assert here.reviews() == there.reviews()
    assert [one.rating for one in here.reviews() if one.question_id == "a"] == [3, 4, 1]
    assert here.card("a") == there.card("a")


def test_an_export_never_writes_over_a_file(memory, tmp_path):
    (tmp_path / "mine.json").write_text("precious")
    with pytest.raises(CourseError, match="Name a new file"):
        memory.export(tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_text() == "precious"


GOOD = {"question": "a", "at": "2026-03-01T09:00:00.000000+00:00", "rating": 3, "made": [True], "language": "en"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no file that"),
        ("[]", "no file that"),
        (b"\xff\xfe", "no file that"),
        ({"reviews": []}, "no file that"),
        ({"version": 7, "reviews": []}, "version 7"),
        ({"version": 1, "reviews": [GOOD]}, "review 1: the field 'mock' is missing"),
        ({"version": 1, "reviews": [GOOD | {"mock": ""}, GOOD | {"mock": "", "rating": 5}]}, "review 2: rating"),
        ({"version": 1, "reviews": [GOOD | {"mock": "", "at": "yesterday"}]}, "review 1: .*yesterday"),
        ({"version": 1, "reviews": [GOOD | {"mock": "", "at": "2026-03-01"}]}, "review 1: .*time zone"),
        ({"version": 1, "reviews": [GOOD | {"mock": "", "made": [2]}]}, "review 1: made"),
        ({"version": 1, "reviews": ["a"]}, "review 1"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_and_nothing_is_imported(memory, tmp_path, text, says):
    path = tmp_path / "some.json"
    if isinstance(text, dict):
        named = {} if set(text) == {"reviews"} else {"format": "ctkd interview reviews"}
        text = json.dumps(named | text)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CourseError, match=says):
        memory.import_(path)
    assert memory.reviews() == []
    with pytest.raises(CourseError, match="cannot be read"):
        memory.import_(tmp_path / "none.json")


# --- search -----------------------------------------------------------------------------------


def test_search_finds_words_in_either_language(small):
    assert [one.id for one in matching(small, "MODEL derivation-2")] == ["soft-targets-derivation-2"]
    assert [one.id for one in matching(small, "为什么 design-3")] == ["shift-design-3"]
    assert {one.topic for one in matching(small, "软目标")} == {"soft_targets"}
    assert len(matching(small, topic="shift", level=2)) == 3
    assert [one.id for one in matching(small, kind="paper", level=1)] == ["soft-targets-paper-1"]
    assert matching(small, "no such words") == []


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"topic": "softtargets"}, "topic 'softtargets'. There are: soft_targets, shift"),
        ({"level": 4}, "level 4. There are: 1, 2, 3"),
        ({"kind": "code"}, "kind 'code'. There are: concept"),
    ],
)
def test_an_unknown_topic_level_or_kind_names_those_there_are(small, asked, says):
    with pytest.raises(CourseError, match=says):
        matching(small, **asked)


# --- the mock interview -----------------------------------------------------------------------


@pytest.mark.parametrize("role", mock.ROLES)
@pytest.mark.parametrize("minutes", [3, 10, 20, 45])
def test_an_interview_keeps_to_its_time_and_mixes_kinds(small, role, minutes):
    for seed in range(20):
        chosen = mock.plan(small, role, 2, minutes, seed)
        assert chosen == mock.plan(small, role, 2, minutes, seed)
        assert len({one.id for one in chosen}) == len(chosen) > 0
        assert all(one.level <= 2 for one in chosen)
        left = minutes - sum(mock.MINUTES[one.kind] for one in chosen)
        assert left >= 0
        assert [one for one in small if one.level <= 2 and one not in chosen and mock.MINUTES[one.kind] <= left] == []
        assert minutes < 20 or "coding" in {one.kind for one in chosen}
        assert minutes < 45 or len({one.kind for one in chosen}) >= 3


def test_seeds_and_roles_give_other_interviews(small):
    plans = {tuple(one.id for one in mock.plan(small, "applied", 3, 30, seed)) for seed in range(20)}
    assert len(plans) > 10

    def share(role, kind):
        chosen = [one.kind for seed in range(100) for one in mock.plan(small, role, 3, 30, seed)]
        return chosen.count(kind) / len(chosen)

    assert share("research", "paper") > 1.5 * share("engineer", "paper")
    assert share("engineer", "debugging") > 1.5 * share("research", "debugging")


def test_weak_topics_are_asked_more_often(small):
    same_kind = [one for one in small if one.kind in ("concept", "comparison")]

    def share(weak):
        chosen = [one.topic for seed in range(200) for one in mock.plan(same_kind, "applied", 3, 3, seed, weak)]
        return chosen.count("shift") / len(chosen)

    assert share(()) == share(("shift",))  # a kind has one topic here: weights between kinds stay
    both = [q for q in small if q.kind == "concept"] + [
        bank.Question(**{**vars(q), "kind": "concept", "topic": "shift"}) for q in small if q.kind == "comparison"
    ]
    chosen = [one.topic for seed in range(200) for one in mock.plan(both, "applied", 3, 3, seed, ("shift",))]
    assert chosen.count("shift") / 200 > 0.65


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("boss", 2, 30), "role 'boss'. There are: research, engineer, applied"),
        (("applied", 5, 30), "level 5. There are: 1, 2, 3"),
        (("applied", 2, 2), "at least 3 minutes"),
        (("applied", 2, float("nan")), "at least 3 minutes"),
    ],
)
def test_an_interview_that_cannot_be_is_refused(small, asked, says):
    with pytest.raises(CourseError, match=says):
        mock.plan(small, *asked, seed=0)


def test_the_sheet_names_strong_and_weak_and_where_to_read(small):
    by_id = {one.id: one for one in small}
    answers = [
        mock.Answer(by_id["soft-targets-concept-1"], (True, True, True), 120),
        mock.Answer(by_id["soft-targets-coding-1"], (True, True, True), 300, passed=False),
        mock.Answer(by_id["shift-design-1"], (True, False, False), 180),
    ]
    sheet = mock.summary(answers)
    assert sheet.by_topic == {"soft_targets": 0.75, "shift": pytest.approx(1 / 3)}
    assert sheet.by_kind["coding"] == 0.5
    assert (sheet.strong, sheet.weak, sheet.lessons, sheet.minutes) == (("soft_targets",), ("shift",), ("08",), 10)
    text = present.sheet_markdown(sheet, "en")
    assert "](08_distribution_shift.ipynb)" in text
    assert "Weak:** Shift" in text
    assert "软目标" in present.sheet_markdown(sheet, "zh")
    assert mock.summary([]).score == 0


# --- what is shown ----------------------------------------------------------------------------


def test_a_card_shows_points_wrong_answers_papers_the_number_measured_and_the_lesson(small):
    question = bank.find("soft-targets-paper-1")
    text = present.answer_markdown(question, "en")
    parts = ("1. first point", "*It is so.* It is not.", "Hinton et al. (2015)", "(01_soft_targets.ipynb#cell-id=")
    assert [part for part in parts if part not in text] == []
    number = present.claim_numbers(question)[0]
    assert number in text
    page = (ROOT / "notebooks" / "claims.md").read_text(encoding="utf-8")
    assert f"| {CLAIM[4:]} | {number.removeprefix(CLAIM[4:] + ': ')} |" in page
    assert "甲" in present.answer_markdown(question, "zh")
    assert "软目标" in present.question_markdown(question, "zh")


def test_every_claim_on_the_page_can_be_named():
    page = (ROOT / "notebooks" / "claims.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| ---"))]
    assert len(present._measured()) == len(rows)
    assert all("[" in number for number in present._measured().values())


def test_an_unknown_claim_names_file_and_question(small):
    question = bank.Question(**{**vars(bank.find("shift-design-1")), "claims": ("01: never said",)})
    with pytest.raises(bank.BankError, match=r"shift\.yaml, question shift-design-1: .*never said"):
        present.claim_numbers(question)


def test_plain_text_keeps_code_and_writes_formulas_out():
    markdown = "*a* and **b c**, [d](e.ipynb#f), `*x*`, abc, 2 * 3 * 4\n\n```\nloss **1**\n```"
    assert present.plain(markdown) == "a and b c, d, `*x*`, abc, 2 * 3 * 4\n\n```\nloss **1**\n```"


# --- coding questions -------------------------------------------------------------------------

RIGHT = "import torch\ndef soften(logits, temperature):\n    return torch.softmax(logits / temperature, -1)\n"


@pytest.mark.parametrize(
    ("source", "verdict", "says"),
    [
        (RIGHT, "passed", "right"),
        (RIGHT.replace("/", "*"), "wrong", "multipl"),
        ("def soften(:", "wrong", "SyntaxError, line 1"),
        ("import nothing_like_it", "wrong", "ModuleNotFoundError"),
        ("raise SystemExit", "wrong", "SystemExit"),
        ("x = 1", "wrong", "no function `soften`"),
        (None, "not attempted", "not attempted"),
    ],
)
def test_code_is_run_and_checked_by_the_exercise_engine(source, verdict, says):
    report = coding.check_source("01.soften", coding.starter("01.soften") if source is None else source)
    assert report.finding.verdict == verdict
    assert says in repr(report)


def test_every_exercise_has_its_text_and_its_beginning():
    from ctkd_lessons.course.exercises import MODULES, of_lesson

    for exercise in [one for number in MODULES for one in of_lesson(number)]:
        names = {}
        exec(coding.starter(exercise.id), names)
        assert exercise.name in names
        assert coding.task(exercise.id).startswith("## ")


def test_the_learners_file_is_never_written_over(tmp_path):
    path = coding.work_file("01.soften", tmp_path)
    assert path == tmp_path / "my_work" / "interview" / "01.soften.py"
    path.write_text("mine")
    assert coding.work_file("01.soften", tmp_path).read_text() == "mine"
    with pytest.raises(CourseError, match=r"01\.nothing"):
        coding.starter("01.nothing")
    assert find("01").exercise.exists()


# --- history ----------------------------------------------------------------------------------


def test_history_counts_topics_days_and_interviews(small, memory):
    memory.rate("shift-design-1", 1, (True, True, True), "en", START)
    memory.rate("shift-design-1", 1, (True, False, False), "en", START + timedelta(days=1), mock="m")
    memory.rate("gone-from-the-bank", 3, (True,), "en", START)
    now = START + timedelta(days=2)
    soft, shift = history.standings(small, memory, now)
    assert (soft.total, soft.seen, soft.due, soft.score) == (12, 0, 0, None)
    assert (shift.total, shift.seen, shift.due, shift.score) == (9, 1, 1, pytest.approx(1 / 3))
    assert history.weak_topics(small, memory, now) == ["shift"]
    assert list(history.by_day(memory.reviews()).values()) == [2, 1]
    assert history.mocks(memory.reviews()) == [("m", 1, pytest.approx(1 / 3))]


# --- the terminal -----------------------------------------------------------------------------

WITH_SMALL_BANK = """
import sys
from pathlib import Path
from ctkd_lessons.course.interview import bank, coding
bank.FOLDER = Path(sys.argv.pop(1))
coding.work_file.__defaults__ = (bank.FOLDER.parent,)
from ctkd_lessons.course.cli import app
try:
    app(prog_name="ctkd")
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def ctkd(tmp_path):
    folder = write_bank(tmp_path / "bank")

    def run(*arguments, typed="", **environment):
        command = [sys.executable, "-c", WITH_SMALL_BANK, str(folder), "interview", *arguments]
        settings = {"CTKD_INTERVIEW": str(tmp_path / "data.sqlite"), "PYTHONUTF8": "1"} | environment
        done = subprocess.run(command, input=typed.encode(), capture_output=True, env=os.environ | settings)
        encoding = environment.get("PYTHONIOENCODING", "utf-8")
        return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)

    run.memory = lambda: Memory(tmp_path / "data.sqlite")
    run.folder = tmp_path
    return run


def test_cards_are_asked_marked_and_kept(ctkd):
    code, out, err = ctkd(typed="\n1 3\n\n\nx\n9\na\n7\n4\nq\n")
    assert (code, err) == (0, "False\n")  # torch was not loaded
    assert "Why concept 1: `x` and T²?" in out
    assert "1. first point" in out
    assert "Please give numbers from 1 to 3" in out
    assert "Please give 1, 2, 3 or 4" in out
    assert "Answered: 2." in out
    first, second = ctkd.memory().reviews()
    assert (first.question_id, first.made, first.rating) == ("soft-targets-concept-1", (True, False, True), 2)
    assert (second.made, second.rating) == ((True,) * 3, 4)
    assert "Why concept 3" in ctkd(typed="q\n")[1]


@pytest.mark.parametrize("typed", ["", "\n", "\n1\n", "\n1", "q"])
def test_input_that_ends_anywhere_ends_quietly(ctkd, typed):
    code, _, err = ctkd(typed=typed)
    assert (code, err) == (0, "False\n")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise on Windows")
def test_control_c_ends_quietly_and_keeps_what_was_answered(ctkd):
    # In the background a shell lets processes ignore Ctrl-C, and their children inherit it.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{WITH_SMALL_BANK}"
    command = [sys.executable, "-c", program, str(ctkd.folder / "bank"), "interview"]
    settings = os.environ | {"CTKD_INTERVIEW": str(ctkd.folder / "data.sqlite"), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    window = subprocess.Popen(command, env=settings, **pipes)
    window.stdin.write(b"\na\n\n")
    window.stdin.flush()
    assert any(b"Card 2" in line for line in window.stdout)
    window.send_signal(signal.SIGINT)
    _, err = window.communicate(timeout=60)
    assert (window.returncode, err) == (0, b"False\n")
    assert len(ctkd.memory().reviews()) == 1


def test_the_terminal_speaks_chinese(ctkd):
    _, out, _ = ctkd("shift", "--language", "zh", typed="\n１、2\n\nq\n")
    assert "为什么 comparison 1？" in out
    assert "好的回答应包含的要点" in out
    assert ctkd.memory().reviews()[0].made == (True, True, False)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_terminal_without_utf8_shows_what_it_can_and_says_how_to_switch(ctkd, encoding, language):
    settings = {"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    code, out, err = ctkd("--language", language, typed="\na\n\nq\n", **settings)
    assert (code, err.strip()) == (0, "False")
    assert len(ctkd.memory().reviews()) == 1
    assert ("PYTHONUTF8=1" in out) == (encoding == "ascii" or language + encoding in ("encp1252", "zhcp1252", "engbk"))
    assert "T2" in out or "T²" in out or language == "zh"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["softtargets"], "There are: soft_targets, shift"),
        (["--level", "4"], "There are: 1, 2, 3"),
        (["--kind", "code"], "There are: concept"),
        (["--language", "fr"], "There are: en, zh"),
        (["--mock", "30", "--role", "boss"], "There are: research, engineer, applied"),
        (["--mock", "1"], "at least 3 minutes"),
        (["--import", "nowhere.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(ctkd, arguments, says):
    code, _, err = ctkd(*arguments)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_search_lists_and_asks_the_one_chosen(ctkd):
    code, out, _ = ctkd("--search", "model derivation", typed="2\n\n1\n\n\n")
    assert code == 0
    assert "3 Why derivation 3: `x` and T²? (level 3 · derivation)" in out
    assert [one.question_id for one in ctkd.memory().reviews()] == ["soft-targets-derivation-2"]
    assert "No question fits" in ctkd("--search", "no such words")[1]


def test_a_mock_interview_ends_with_a_sheet_and_is_in_the_history(ctkd):
    code, out, err = ctkd("--mock", "20", "--role", "engineer", "--level", "3", typed="s\n1\n" * 12)
    assert (code, err) == (0, "False\n"), out
    reviews = ctkd.memory().reviews()
    assert f"Mock interview: {len(reviews)} questions, 20 minutes, engineer, level 3" in out
    assert len({one.mock for one in reviews}) == 1
    assert "How it went:" in out
    assert "Read again: notebooks/01_soft_targets.ipynb" in out
    assert f"Mock interview {reviews[0].mock}: {len(reviews)} questions, " in ctkd("--history")[1]


def test_a_mock_interview_cut_short_keeps_its_answers_and_shows_its_sheet(ctkd):
    code, out, _ = ctkd("shift", "--mock", "12", typed="\n1\n")
    assert code == 0
    assert "How it went:" in out
    assert len(ctkd.memory().reviews()) == 1


def test_a_coding_question_is_checked_live(ctkd):
    work = ctkd.folder / "my_work" / "interview" / "01.soften.py"
    work.parent.mkdir(parents=True)
    work.write_text(RIGHT)
    code, out, err = ctkd("--kind", "coding", "--level", "1", typed="\na\n\nq\n")
    assert (code, err) == (0, "True\n")  # now torch was needed
    assert "is right on all" in out
    assert ctkd.memory().reviews()[0].rating == 3
    work.write_text(RIGHT.replace("/", "*"))
    _, out, _ = ctkd("--kind", "coding", "--level", "2", typed="\ns\na\n\nq\n")
    assert "✘" in out
    assert ctkd.memory().reviews()[1].rating == 1


def test_answers_travel_by_a_file(ctkd):
    ctkd(typed="\na\n\nq\n")
    file = ctkd.folder / "out.json"
    assert "out.json: 1." in ctkd("--export", str(file))[1]
    assert ctkd("--export", str(file))[0] == 2
    _, out, _ = ctkd("--import", str(file), CTKD_INTERVIEW=str(ctkd.folder / "other.sqlite"))
    assert "New answers from" in out


def test_a_damaged_file_is_told_in_the_terminal(ctkd):
    (ctkd.folder / "data.sqlite").write_bytes(b"x" * 5000)
    code, out, _ = ctkd(typed="\na\n\nq\n")
    assert code == 0
    assert "data.damaged-1.sqlite" in out
    assert len(ctkd.memory().reviews()) == 1


def test_when_nothing_is_due_the_next_time_is_told(ctkd):
    ctkd("shift", "--level", "1", "--kind", "design", typed="\na\n4\n")
    assert "Nothing is due. The next question is due 2" in ctkd("shift", "--level", "1", "--kind", "design")[1]


# --- the bar: the first card of the whole bank within a second ----------------------------------


def test_the_first_card_comes_at_once_and_without_torch(tmp_path):
    program = "import sys; from ctkd_lessons.course.cli import app\ntry:\n    app(prog_name='ctkd')\nfinally:\n    "
    program += "print([one for one in ('torch', 'numpy', 'matplotlib') if one in sys.modules], file=sys.stderr)"
    settings = os.environ | {"CTKD_INTERVIEW": str(tmp_path / "data.sqlite"), "PYTHONUTF8": "1"}
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-c", program, "interview"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=settings, text=True)
        seconds.append(time.perf_counter() - start)
        assert (done.returncode, done.stderr) == (0, "[]\n")
        assert f"Card 1 of {len(bank.questions())}" in done.stdout
    assert min(seconds) < 3, seconds  # about 0.3 on two idle cores; the bar is 1


def test_console_takes_the_nearest_sign():
    assert "".join(map(console._ascii, "T² → é — 软 α")) == "T2 -> e - ? ?"
