"""The printable page: whole, of one file, without a network; formulas as plain HTML."""

import re
import zipfile
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from ctkd_lessons.course import cli
from ctkd_lessons.course.interview import bank, present
from ctkd_lessons.course.interview.bank import LANGUAGES
from ctkd_lessons.course.interview.formulas import as_text, readable
from ctkd_lessons.course.interview.sheet import page
from ctkd_lessons.course.lessons import CourseError


def fraction(above, below):
    return f'<span class="fraction"><span>{above}</span><span>{below}</span></span>'


FORMULAS = {
    r"T^2": "<i>T</i><sup>2</sup>",
    r"\hat{y}_{ij}": "<i>ŷ</i><sub><i>ij</i></sub>",
    r"\frac{a+b}{2}": fraction("<i>a</i> + <i>b</i>", "2"),
    r"\frac{\partial L}{\partial z}": fraction("∂<i>L</i>", "∂<i>z</i>"),
    r"p < q": "<i>p</i> &lt; <i>q</i>",
    r"\mathrm{KL}(p\,\|\,q)": "KL(<i>p</i>\u2009‖\u2009<i>q</i>)",
    r"\text{if } x": "if <i>x</i>",
    r"\sqrt{\lambda}": "√λ",
    r"a \\ b": "<i>a</i><br><i>b</i>",
    r"x^ab": "<i>x</i><sup><i>a</i></sup><i>b</i>",
    r"\unheardof x": "unheardof\u2009<i>x</i>",
    r"\frac{a": fraction("<i>a</i>", ""),
    "": "",
}


TEXTS = {
    r"T^2": "T^2",
    r"z^s_{ij}": "z^s_(ij)",
    r"\frac{1}{T}": "1/T",
    r"\frac{a+b}{2C}": "(a + b)/2C",
    r"e^{z_c/T}": "e^(z_c/T)",
    r"\frac{\partial L}{\partial z^s_c}": "(∂L)/(∂z^s_c)",
    r"\frac1T(a-b)": "(1/T)(a−b)",
    r"p < q": "p < q",
    r"\sqrt{\lambda}": "√λ",
}


@pytest.mark.parametrize(("latex", "text"), TEXTS.items(), ids=TEXTS)
def test_formula_in_a_terminal(latex, text):
    assert as_text(latex) == text


def test_no_formula_of_the_bank_leaves_a_tag_or_a_command_behind():
    for question in bank.questions():
        for language in LANGUAGES:
            shown = present.plain(present.answer_markdown(question, language))
            prose = re.sub(r"```.*?```|`[^`]*`", "", shown, flags=re.DOTALL)
            assert not re.search(r"</?\w+>|\\[a-zA-Z]+|\$\$", prose), question.id


@pytest.mark.parametrize(("latex", "html"), FORMULAS.items(), ids=FORMULAS)
def test_formula(latex, html):
    assert readable(latex) == html


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_of_all_topics(language):
    text = page(language)
    shown = BeautifulSoup(text, "html.parser")
    for question in bank.questions():
        assert shown.find(id=question.id), question.id
        assert shown.find(id=f"{question.id}-answer"), question.id
    assert len(shown.find_all("img")) == sum(bool(question.figure) for question in bank.questions())
    addresses = [tag.get("src") or tag.get("href") for tag in shown.find_all(["a", "img", "link", "script"])]
    assert {urlsplit(address).scheme for address in addresses} <= {"", "data"}
    assert all(address.startswith(("#", "data:image/png")) for address in addresses)
    for formula in shown.select(".formula"):
        assert not re.search(r"[\\$]", formula.get_text()), formula


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_come_after_the_questions_of_a_topic(language):
    topic = next(iter(bank.topics()))
    text = page(language, topic)
    ids = [question.id for question in bank.questions(topic)]
    assert text.index(f'id="{ids[-1]}"') < text.index(f'id="{ids[0]}-answer"')
    other = next(question for question in bank.questions() if question.topic != topic)
    assert f'id="{other.id}"' not in text


def test_unknown_language_and_topic():
    with pytest.raises(CourseError, match=r"no language 'fr'\. There are: en, zh"):
        page("fr")
    with pytest.raises(CourseError, match="no topic 'weather'"):
        page("en", "weather")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_whole_page_ends_in_the_terms_and_the_table_of_articles(language):
    whole = BeautifulSoup(page(language), "html.parser")
    terms, *articles = whole.select("table")[-1 - len(bank.articles()) :]
    assert [row.th.text for row in terms.select("tr")] == [term["en"] for term in bank.glossary()]
    shown = {link["href"][1:] for table in articles for link in table.select("a")}
    assert shown == {question.id for question in bank.questions() if question.articles}
    assert all(whole.find(id=name) for name in shown)


def test_the_command_writes_deck_and_page_of_a_topic(tmp_path):
    files = tmp_path / "cards.apkg", tmp_path / "page.html"
    arguments = ["interview", "meta", "--anki", str(files[0]), "--sheet", str(files[1])]
    done = CliRunner().invoke(cli.app, arguments)
    assert f"{len(bank.questions('meta'))} notes in" in done.output
    assert zipfile.is_zipfile(files[0])
    assert files[1].read_text(encoding="utf-8") == page("en", "meta")
    assert CliRunner().invoke(cli.app, ["interview", "nothing", "--sheet", str(files[1])]).exit_code == 2
    assert CliRunner().invoke(cli.app, ["interview", "--sheet", str(tmp_path)]).exit_code == 2
