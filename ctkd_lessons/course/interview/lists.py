"""The list of interview questions at the end of a lesson, drawn from the bank."""

from ctkd_lessons.course.interview.bank import Question, questions

MORE = "More of them, with marking points, follow-ups and the answers in Chinese: `ctkd interview`."


def lesson_section(number: str, heading: str) -> str:
    """Return the text of a lesson's cell: the heading, then each question with its folded answer."""
    shown = [question for question in questions() if question.in_lesson and question.lesson == number]
    return "\n\n".join([heading, *map(_folded, shown), MORE])


def _folded(question: Question) -> str:
    text = question.text["en"]
    return f"<details><summary><b>{text.question}</b></summary>\n\n{text.answer.strip()}\n</details>"
