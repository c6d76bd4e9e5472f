"""The questions on paper: one HTML page by topic, answers after the questions, no network and no script."""

import base64
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from ctkd_lessons.course.interview import bank, present
from ctkd_lessons.course.interview.bank import Question
from ctkd_lessons.course.interview.markup import for_paper
from ctkd_lessons.course.lessons import CourseError

WORDS = {
    "en": {"title": "Interview questions", "answers": "Answers", "figure": "Figure of question", "terms": "Terms"},
    "zh": {"title": "面试题", "answers": "参考答案", "figure": "题图", "terms": "术语表"},
}
WORDS["en"] |= {"articles": "Questions of the source articles, and where they are answered"}
WORDS["zh"] |= {"articles": "原文章中的问题与本题库的对应"}


def page(language: str, topic: str | None = None) -> str:
    """Return the page of a topic, or of all with the terms and the table of articles.

    Raises ``CourseError`` for an unknown language or topic.
    """
    if language not in WORDS:
        raise CourseError(f"There is no language {language!r}. There are: {', '.join(WORDS)}.")
    by_topic: dict[str, list[Question]] = {}
    for question in bank.questions(topic):
        by_topic.setdefault(bank.topics()[question.topic][language], []).append(question)
    terms, articles = ([], {}) if topic else (bank.glossary(), bank.articles())
    return _template().render(language=language, words=WORDS[language], topics=by_topic, terms=terms, articles=articles)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"question": _question, "answer": _answer, "figure": _figure}
    return environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


def _question(question: Question, language: str) -> Markup:
    return Markup(for_paper(present.question_markdown(question, language)))


def _answer(question: Question, language: str) -> Markup:
    return Markup(for_paper(present.answer_markdown(question, language)))


def _figure(question: Question) -> str:
    """Return the figure within an address: the page stays one file."""
    picture = present.figure_path(question).read_bytes()
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
