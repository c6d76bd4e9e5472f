"""Practice in a real browser: cards, code, a mock interview, the other language, and all of it kept after a reload."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect
from test_browser import (  # the course, its server and the browser: fixtures count where they are named
    DONE_OR_FAILED,
    ERROR,
    SECONDS,
    Server,
    asked_proxy,
    browser,
    context,
    course,
    menu,
    open_notebook,
    outputs,
    photograph,
    photographed,
    requested,
    server,
    wait_until_idle,
)

from ctkd_lessons.course.interview import bank
from ctkd_lessons.course.interview.labels import label
from ctkd_lessons.course.interview.phrases import say

__all__ = ["asked_proxy", "browser", "context", "course", "requested", "server"]
pytestmark = pytest.mark.timeout(600)

NOTEBOOK = "90_interview_practice"
SOFTEN = """\
import torch
def soften(logits, temperature):
    return torch.softmax(logits {sign} temperature, dim=-1)"""


@pytest.fixture(scope="module")
def practice(context: BrowserContext, server: Server) -> Page:
    """Open the practice notebook and run all of it."""
    page = context.new_page()
    with photographed(page, "practice"):
        open_notebook(page, server.page(f"notebooks/{NOTEBOOK}.ipynb"))
        run_all(page)
    return page


def run_all(page: Page) -> None:
    menu(page, "Edit", "Clear Outputs of All Cells")
    menu(page, "Run", "Restart Kernel and Run All Cells…")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_function(DONE_OR_FAILED, arg=ERROR, timeout=300 * SECONDS, polling=500)
    wait_until_idle(page)
    expect(page.locator(".ctkd-practice")).to_have_count(1)


def tab(page: Page, name: str, language: str) -> None:
    page.locator(".ctkd-practice .lm-TabBar-tab", has_text=label(name, language)).click()


def shown(page: Page, name: str) -> Locator:
    """Return what has the class ``ctkd-<name>`` in the open tab."""
    return page.locator(f".ctkd-practice .ctkd-{name}:visible")


def speak(page: Page, language: str) -> None:
    page.get_by_role("button", name={"en": "English", "zh": "中文"}[language], exact=True).click()
    expect(page.locator(".ctkd-practice .lm-TabBar-tab", has_text=label("cards", language))).to_be_visible()


def asked(page: Page, language: str) -> bank.Question:
    """Return the question that is shown."""
    text = shown(page, "asked").locator(".jp-RenderedMarkdown").first
    expect(text).to_be_visible()
    words = set(re.findall(r"\w+", text.inner_text()))
    return max(bank.questions(), key=lambda one: _alike(words, one.text[language].question))


def _alike(words: set[str], question: str) -> float:
    others = set(re.findall(r"\w+", question))
    return len(words & others) / len(words | others)


def look(page: Page, name: str) -> None:
    page.locator(".ctkd-practice").evaluate("box => box.scrollIntoView({block: 'start'})")
    photograph(page, f"interview-{name}")


def test_cards_are_answered_point_by_point(practice: Page) -> None:
    with photographed(practice, "cards"):
        look(practice, "1-card")
        first = asked(practice, "en")
        shown(practice, "show_answer").click()
        points = shown(practice, "asked").locator("input[type=checkbox]")
        expect(points).to_have_count(len(first.text["en"].points))
        expect(shown(practice, "asked")).to_contain_text(say("answer", "en"))
        for place in range(points.count()):
            points.nth(place).check()
        expect(practice.get_by_role("button", name=label("good", "en"), exact=True)).to_have_class(
            re.compile("mod-act")
        )
        look(practice, "2-answer")
        shown(practice, "keep").click()
        expect(practice.locator(".ctkd-practice")).to_contain_text("Asked again")
        assert asked(practice, "en") != first
        assert outputs(practice, ERROR) == []


def test_formulas_are_typeset(practice: Page) -> None:
    with photographed(practice, "formulas"):
        tab(practice, "search", "en")
        found = next(one for one in bank.questions() if "$" in one.text["en"].answer and "$" not in title(one))
        search(practice, title(found), found)
        shown(practice, "show_answer").click()
        expect(shown(practice, "asked").locator("mjx-container").first).to_be_visible()
        look(practice, "3-search")


def search(page: Page, words: str, found: bank.Question) -> None:
    box = page.locator(".ctkd-practice input[type=text]:visible")
    box.fill(words)
    box.press("Enter")
    option = page.locator(".ctkd-practice select[size] option")
    expect(option).to_have_text([title(found)])
    page.locator(".ctkd-practice select[size]").select_option(index=0)
    expect(shown(page, "asked")).to_be_visible()


def title(question: bank.Question) -> str:
    return question.text["en"].question.strip().splitlines()[0].replace("$", "")


@pytest.mark.parametrize("sign", ["*", "/"])
def test_code_is_checked_live(practice: Page, sign: str) -> None:
    with photographed(practice, "code"):
        tab(practice, "search", "en")
        search(practice, "01.soften", next(one for one in bank.questions() if one.exercise == "01.soften"))
        code = shown(practice, "code").locator("textarea")
        expect(code).to_have_value(re.compile("def soften"))
        code.fill(SOFTEN.format(sign=sign))
        code.blur()
        shown(practice, "check_code").click()
        panel = shown(practice, "asked").locator("div.ctkd-check")
        expect(panel).to_contain_text("✔ 01.soften" if sign == "/" else "✘ 01.soften")
        look(practice, "4-code")


def test_a_mock_interview_ends_in_a_sheet_with_links(practice: Page) -> None:
    with photographed(practice, "mock"):
        tab(practice, "interview", "en")
        look(practice, "5-mock")
        shown(practice, "start").click()
        clock = practice.locator(".ctkd-practice .ctkd-clock")
        before = clock.inner_text()
        expect(clock).not_to_have_text(before)  # it runs by itself
        speak(practice, "zh")
        expect(clock).to_contain_text("剩余")
        speak(practice, "en")
        expect(clock).to_contain_text("left")
        total = int(re.search(r"of (\d+)", clock.inner_text())[1])
        for number in range(1, total + 1):
            expect(clock).to_contain_text(f"Question {number} of {total}")
            shown(practice, "show_answer").click()
            shown(practice, "asked").locator("input[type=checkbox]").first.check()
            shown(practice, "next").click()
        expect(practice.locator(".ctkd-practice .ctkd-sheet")).to_contain_text("How it went")
        assert practice.locator(".ctkd-practice .ctkd-sheet a[href*='.ipynb']").count() > 0
        look(practice, "6-sheet")
        assert outputs(practice, ERROR) == []


def test_language_reload_and_progress(practice: Page, course: Path) -> None:
    with photographed(practice, "reload"):
        speak(practice, "zh")
        tab(practice, "cards", "zh")
        question = asked(practice, "zh")
        shown(practice, "show_answer").click()
        look(practice, "7-chinese")
        shown(practice, "keep").click()
        expect(practice.locator(".ctkd-practice")).to_contain_text("下次复习")
        answered = progress(practice)
        look(practice, "8-progress")
        practice.reload()
        practice.locator(".jp-NotebookPanel:visible .jp-CodeCell").first.wait_for()
        wait_until_idle(practice)
        run_all(practice)
        # The language of the last answer, the same counts; the questions answered are not asked again.
        expect(practice.locator(".ctkd-practice .lm-TabBar-tab").first).to_have_text(label("cards", "zh"))
        assert asked(practice, "zh") != question
        assert progress(practice) == answered
        assert int(answered[0]) >= 4
    saved = json.loads((course / "notebooks" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    assert "interview.sqlite" not in json.dumps(saved)


def progress(page: Page) -> list[str]:
    """Return the counts above the picture, once the picture is there."""
    tab(page, "progress", "zh")
    image = page.locator(".ctkd-practice img:visible")
    expect(image).to_have_attribute("alt", label("picture", "zh"))
    return re.findall(r"\d+", page.locator(".ctkd-practice .ctkd-counts:visible").inner_text())
