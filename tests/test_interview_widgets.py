"""The practice notebook's box without a browser: its clock, its memory, its two languages."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from ctkd_lessons.course.interview import bank
from ctkd_lessons.course.interview.labels import LABELS, label
from ctkd_lessons.course.interview.memory import Memory
from ctkd_lessons.course.interview.widget_parts import HIDDEN
from ctkd_lessons.course.interview.widgets import Practice


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.time = datetime(2026, 1, 5, 9, tzinfo=UTC)

    def __call__(self):
        return self.time

    def wait(self, **how_long):
        self.time += timedelta(**how_long)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def practice(tmp_path, clock):
    return Practice(Memory(tmp_path / "interview.sqlite"), clock)


def test_each_answer_is_kept_at_once(practice, clock):
    card = practice.cards.card
    first = card.asked.question
    card.asked.reveal()
    for box in card.asked.points.children:
        box.value = True
    assert card.rating.value == 3
    card.rating.value = 4  # the learner knows better
    card.keep.click()
    (review,) = Memory(practice.memory.path).reviews()
    assert (review.question_id, review.rating, review.language) == (first.id, 4, "en")
    assert review.made == (True,) * len(first.text["en"].points)
    assert card.asked.question != first
    assert card.closing.layout.display == HIDDEN


def test_the_language_changes_and_ticks_stay(practice):
    asked = practice.cards.card.asked
    question = asked.question
    asked.reveal()
    asked.points.children[1].value = True
    practice.language.value = "zh"
    assert asked.question == question
    assert asked.made[:3] == (False, True, False)
    assert practice.tabs.titles[0] == label("cards", "zh")
    assert question.text["zh"].question.strip() in asked.text.outputs[0]["data"]["text/markdown"]
    practice.cards.card.keep.click()
    assert Practice(Memory(practice.memory.path)).language.value == "zh"


def test_cards_of_a_choice(practice):
    practice.cards.choice.kind.value = "design"
    assert practice.cards.card.asked.question.kind == "design"
    practice.language.value = "zh"
    assert practice.cards.choice.kind.value == "design"


def test_the_interview_ends_when_time_is_up(practice, clock):
    interview = practice.interview
    interview.minutes.value = 15
    interview.start.click()
    count = len(interview.questions)
    clock.wait(minutes=1)
    interview.tick()
    assert "14:00" in interview.clock.value
    interview.asked.reveal()
    clock.wait(hours=1)  # marking takes no time of the interview
    interview.next.click()
    assert len(interview.answers) == 1
    assert interview.answers[0].seconds == 60
    assert "14:00" in interview.clock.value
    clock.wait(minutes=14, seconds=1)
    interview.tick()
    assert label("time_up", "en") in interview.clock.value
    interview.asked.reveal()
    interview.next.click()
    assert len(interview.answers) == 2 <= count
    assert not interview.is_running
    assert interview.sheet.outputs
    assert len({review.mock for review in practice.memory.reviews()} - {""}) == 1


def test_an_interview_that_is_stopped_counts_what_was_answered(practice):
    interview = practice.interview
    interview.start.click()
    interview.stop.click()
    assert not interview.sheet.outputs
    interview.start.click()
    interview.asked.reveal()
    interview.next.click()
    interview.stop.click()
    assert "0 %" in interview.sheet.outputs[0]["data"]["text/markdown"]
    practice.language.value = "zh"
    assert "结果" in interview.sheet.outputs[0]["data"]["text/markdown"]


def test_code_that_was_not_checked_is_not_right(practice):
    question = next(question for question in bank.questions() if question.exercise == "01.soften")
    asked = practice.search.card.asked
    practice.search.words.value = "01.soften"
    practice.search.found.value = question.id
    assert asked.passed is False
    assert "def soften(" in asked.code.value
    asked.reveal()
    for box in asked.points.children:
        box.value = True
    assert practice.search.card.rating.value == 1
    asked.code.value = (
        "import torch\n\ndef soften(logits, temperature):\n    return torch.softmax(logits / temperature, -1)"
    )
    asked.check.click()
    assert asked.passed
    assert "✔ 01.soften" in asked.finding.value
    assert practice.search.card.rating.value == 3


def test_progress_counts_and_has_a_text_alternative(practice):
    practice.cards.card.asked.reveal()
    practice.cards.card.keep.click()
    practice.tabs.selected_index = 3
    assert "answers: 1, days: 1" in practice.progress.head.value
    assert f'alt="{label("picture", "en")}"' in practice.progress.image.value
    rows = practice.progress.table.outputs[0]["data"]["text/markdown"].splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == 2 + len(bank.topics())


def test_a_question_with_a_figure_shows_it(practice):
    question = next((question for question in bank.questions() if question.figure), None)
    practice.search.found.value = question.id
    assert "data:image/png;base64," in practice.search.card.asked.figure.value


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "interview.sqlite"
    path.write_bytes(b"no database" * 100)
    practice = Practice(Memory(path))
    assert practice.notice.value == practice.memory.notice != ""


def test_every_label_is_there_in_both_languages():
    for name, words in LABELS.items():
        assert set(words) == set(bank.LANGUAGES), name


def test_the_box_needs_no_torch():
    code = "import sys; from ctkd_lessons.course.interview.widgets import Practice; Practice(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in run.stdout.split()
