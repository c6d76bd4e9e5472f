"""The class report and the CSV: counted again by hand, fed with what a hostile student may write, seen in a browser."""

import csv
import io
import os
import random
import re
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path
from statistics import mean, median
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup

from ctkd_lessons.course.classroom.names import student_id
from ctkd_lessons.course.classroom.reporting import overview, report, table
from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.exercises import of_lesson
from ctkd_lessons.course.lessons import Lesson

LESSON = Lesson("01_soft_targets")
EXERCISES = of_lesson("01")
WHEN = datetime(2025, 11, 21, 8, 50)
ALERT = "<script>alert(1)</script>"
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium keeps no sandbox for root
HOSTILE = (
    ALERT,
    "\"><img src=x onerror='alert(2)'>",
    "javascript:alert(3)",
    "</style></script><svg/onload=alert(4)>",
    "<!-- ]]> {{ 7 * 7 }} {% for",
    "\u202egnp.exe \u2066 \x1b[31m \x00 \x85 \u2028",
    "half a pair \ud83d, an undecodable byte \udcff",
    "x" * 500,
    "../../etc/passwd?a=b&c#d",
    "`code` and *stars* `<b>`",
    "山田 太郎 و زهرا\u200cخانم",
    " ",
)


# --- a class ----------------------------------------------------------------------------------


def mark(exercise, verdict, *mistakes, headline="", share=0.0):
    points = exercise.points if verdict == "passed" else round(exercise.points * share, 2)
    headline = headline or f"`{exercise.name}`: {verdict}"
    return Mark(exercise.id, exercise.title, points, exercise.points, verdict, headline, (), mistakes, 0, 7)


def result(student, marks, state="graded", reason="", notes=()):
    return Result(student, LESSON.name, state, reason, tuple(notes), tuple(marks), 4711, "ab" * 32, 1.23456, "")


def answer(exercise, chance, words="The value differs at (0, 1): expected 0.25, got 0.5."):
    verdicts = ("passed", "known", "known", "other", "not attempted", "stopped")
    verdict = chance.choices(verdicts, (9, 4, 3, 2, 2, 0.5))[0]
    if verdict == "known":
        names = [mistake.name for mistake in exercise.mistakes]
        common = chance.choices(names, [2.0**-place for place in range(len(names))])[0]
        made = dict.fromkeys([common, *chance.sample(names, chance.choice((0, 0, 0, 1)))])
        return mark(exercise, "wrong", *made, share=chance.choice((0, 0.25, 0.5)))
    if verdict == "other":
        return mark(exercise, "wrong", headline=words, share=chance.choice((0, 0.5)))
    return mark(exercise, verdict)


def a_class(students, chance=None, words=None):
    chance = chance or random.Random(8)
    said = lambda: {"words": chance.choice(words)} if words else {}
    return [result(name, [answer(one, chance, **said()) for one in EXERCISES]) for name in students]


@pytest.fixture(scope="module")
def sixty():
    """Forty-eight plain students, and twelve whose names, reasons, notes and messages are hostile."""
    plain = a_class([f"student {number:02}" for number in range(48)])
    hostile = a_class(HOSTILE, random.Random(9), words=HOSTILE)
    failed = [
        result(one.student, one.marks[: place % 4], "failed", f"Stopped: {HOSTILE[place]}")
        for place, one in enumerate(hostile[:8])
    ]
    noted = [
        result(one.student, one.marks, notes=(f"Beside it lies {text}.",))
        for one, text in zip(hostile[8:], HOSTILE[:4], strict=True)
    ]
    return [*plain, *failed, *noted]


def parsed(results, when=WHEN):
    return BeautifulSoup(report.page(LESSON, results, when), "html.parser")


def words(node):
    return " ".join(node.get_text().split())


def outcome(one, exercise):
    """What a submission's bar should count it as, written anew."""
    found = [mark for mark in one.marks if mark.exercise == exercise.id]
    if not found or (one.state == "failed" and found[0].verdict == "not attempted"):
        return "in a failed submission" if one.state == "failed" else "not attempted"
    verdict = found[0].verdict
    if verdict == "wrong":
        return "with a known mistake" if found[0].mistakes else "wrong in another way"
    return "stopped by a limit" if verdict == "stopped" else verdict


# --- the page ---------------------------------------------------------------------------------


def test_the_summary_counts_the_class(sixty):
    graded = [one.points for one in sixty if one.state == "graded"]
    said = words(parsed(sixty).select_one("#summary"))
    assert said.startswith(f"60 submissions: {len(graded)} graded, {60 - len(graded)} failed;")
    assert f"the median is {median(graded):g} of 16 points" in said
    low, high = map(float, re.search(r"the quartiles are ([\d.]+) and ([\d.]+);", said).groups())
    assert sum(points < low for points in graded) <= len(graded) / 4 <= sum(points <= low for points in graded)
    assert sum(points > high for points in graded) <= len(graded) / 4 <= sum(points >= high for points in graded)
    assert said.endswith("as of 2025-11-21 08:50, on inputs drawn from seed 4711.")


def test_the_commonest_mistakes_come_first_with_their_sentence_and_who_makes_them(sixty):
    made = Counter((m.exercise, name) for one in sixty for m in one.marks for name in m.mistakes)
    judged = ("passed", "wrong", "stopped")
    tried = Counter(m.exercise for one in sixty for m in one.marks if m.verdict in judged)
    shown = parsed(sixty).select(".mistakes li")
    counts = [int(words(item.select_one(".how-many")).split()[0]) for item in shown]
    assert counts == sorted(made.values(), reverse=True)
    known = {(exercise.id, mistake.name): mistake for exercise in EXERCISES for mistake in exercise.mistakes}
    for item, count in zip(shown, counts, strict=True):
        exercise, name = (code.get_text() for code in item.select("p.soft code"))
        assert made.pop((exercise, name)) == count == len(item.select("details a"))
        share = f"{round(100 * count / tried[exercise])} % of {tried[exercise]} who tried"
        assert share in words(item)
        plain = lambda text: " ".join(re.sub("[`*]", "", text).split())
        assert plain(words(item.select_one(".says"))) == plain(f"This is {known[exercise, name].says}.")
        assert plain(known[exercise, name].hint) in plain(words(item))
    assert not made


def test_every_bar_counts_every_submission(sixty):
    shown = parsed(sixty).select(".standings > li")
    for exercise, item in zip(EXERCISES, shown, strict=True):
        wanted = Counter(outcome(one, exercise) for one in sixty)
        said = {text: int(n) for n, text in (words(span).split(" ", 1) for span in item.select(".counts span"))}
        assert said == wanted
        assert sum(said.values()) == 60
        lengths = [float(bar["width"].rstrip("%")) for bar in item.select("svg")[0].select("rect")]
        assert lengths == pytest.approx([100 * count / 60 for count in said.values()], abs=0.01)
        marks = [m.points for one in sixty if one.state == "graded" for m in one.marks if m.exercise == exercise.id]
        said = re.search(r"mean ([\d.]+) of (\d+) points?", words(item))
        assert float(said[1]) == pytest.approx(mean(marks), abs=0.006)
        assert int(said[2]) == exercise.points


def test_the_table_holds_every_mark(sixty):
    rows = parsed(sixty).select("#students tbody tr")
    for row, one in zip(rows, table.in_order(sixty), strict=True):
        total, *cells = row.select("td")
        assert float(total["data-points"]) == one.points
        assert ("failed" in words(total)) == (one.state == "failed")
        marks = {m.exercise: m for m in one.marks}
        for exercise, cell in zip(EXERCISES, cells, strict=True):
            mine = marks.get(exercise.id)
            assert float(cell["data-points"]) == (mine.points if mine else -1)
            assert cell.span["aria-label"] == (mine.verdict if mine else "no mark")
            assert [code.get_text() for code in cell.select("code")] == list(mine.mistakes if mine else ())


def test_failed_and_noted_are_to_be_looked_at(sixty):
    look = parsed(sixty).select_one("#look")
    failed, noted = look.select("dl")
    assert len(failed.select("dt a")) == 8
    assert len(noted.select("dt a")) == 4
    assert f"Stopped: {ALERT}" in words(failed)
    assert f"Beside it lies {ALERT}." in words(noted)


def test_students_with_the_same_reason_share_a_line():
    results = [result(f"s{place}", (), "failed", "This is no notebook.") for place in range(6)]
    look = parsed([*results, result("other", (), "failed", "It ran too long.")]).select_one("#look")
    assert [words(one) for one in look.select("dd")] == ["It ran too long.", "This is no notebook."]
    assert words(look.select_one("summary")) == "6 students"


def test_links_lead_to_the_autograded_notebook(sixty):
    for one, row in zip(table.in_order(sixty), parsed(sixty).select("#students tbody tr"), strict=True):
        address = row.a["href"]
        assert re.fullmatch(r"[\w.%~/-]+", address)
        start, end = "../../autograded/", f"/{LESSON.name}/{LESSON.name}.ipynb"
        assert address.startswith(start)
        assert address.endswith(end)
        student = address.removeprefix(start).removesuffix(end)
        assert "/" not in student
        if not re.search(r"[\ud800-\udfff]", one.student):  # no file that nbgrader knows has such a name
            assert unquote(student) == student_id(one.student)


def test_nothing_a_student_wrote_becomes_part_of_the_page(sixty):
    text = report.page(LESSON, sixty, WHEN)
    text.encode("utf-8")
    page, plain = BeautifulSoup(text, "html.parser"), parsed(a_class(["one"]))
    names = lambda soup: {tag.name for tag in soup.find_all(True)}
    keys = lambda soup: {key for tag in soup.find_all(True) for key in tag.attrs}
    assert names(page) <= names(plain) | {"dl", "dt", "dd", "div", "details", "summary", "ol", "em"}
    assert keys(page) <= keys(plain) | {"start"}
    assert not any(key.startswith("on") or key == "style" for key in keys(page))
    assert len(page.find_all("script")) == len(page.find_all("style")) == 1
    assert page.script.string == plain.script.string
    assert page.style.string == plain.style.string
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\ud800-\udfff]", text)
    assert "⟨U+202E⟩gnp.exe" in text
    assert "{{ 7 * 7 }}" in page.get_text()
    assert "x" * 500 not in page.get_text()
    assert "x" * 59 + "…" in page.get_text()
    assert "زهرا\u200cخانم" in text


def test_nothing_is_loaded(sixty):
    text = report.page(LESSON, sixty, WHEN)
    page = BeautifulSoup(text, "html.parser")
    assert not page.select("[src], [srcset], [data], link, iframe, object, embed, base, form, image, use")
    assert all(tag["href"].startswith("../../autograded/") for tag in page.select("[href]"))
    assert not re.search(r"url\(|@import|fetch\(|import\(", text)
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([], "0 submissions: 0 graded, 0 failed; as of 2025-11-21 08:50."),
        (a_class(["only"])[:1], "1 submission: 1 graded, 0 failed; the median is"),
        ([result(f"s{n}", (), "failed", "No notebook.") for n in range(3)], "3 submissions: 0 graded, 3 failed; as of"),
    ],
    ids=["nobody", "one", "all failed"],
)
def test_a_class_of_none_of_one_and_of_failures_has_a_page(results, said):
    page = parsed(results)
    assert words(page.select_one("#summary")).startswith(said)
    assert len(page.select("#students tbody tr")) == len(results)
    assert len(page.select("section")) == 5
    assert bool(page.select("#points figure")) == any(one.state == "graded" for one in results)
    assert "nan" not in page.get_text()


def test_a_private_exercise_and_an_unknown_mistake_go_by_their_names():
    marks = [
        Mark("99.mine", "\u202eMy own", 0, 2, "wrong", "", (), ("<b>\x1b",)),
        Mark("01.soften", "Softmax", 0, 2, "wrong", "", (), ("new",)),
    ]
    page = parsed([result("s", marks)])
    assert [words(one) for one in page.select(".mistakes .says")] == ["<b>⟨U+001B⟩", "new"]
    assert words(page.select_one(".standings h3")).startswith("99.mine ⟨U+202E⟩My own")


def test_several_seeds_are_counted():
    results = [Result(f"s{n}", LESSON.name, "failed", "x", (), (), n, "", 0.0) for n in range(7)]
    assert "7 seeds (0, 1, 2, 3, 4, …;" in words(parsed(results).select_one("#summary"))


@pytest.mark.parametrize(("students", "out_of"), [(3, 16), (300, 16), (300, 55)])
def test_the_histogram_counts_everybody_once(students, out_of):
    chance = random.Random(students)
    points = [chance.randint(0, 10 * out_of) / 10 for _ in range(students)] + [out_of, 0]
    bars = overview.histogram(points, out_of)
    assert 10 <= len(bars) <= overview.MOST_BARS + 1
    assert [bar.count for bar in bars] == [sum(bar.begin <= p < bar.end for p in points) for bar in bars]
    assert sum(bar.count for bar in bars) == len(points)
    assert [bar for bar in bars if bar.middle] == [bar for bar in bars if bar.begin <= median(points) < bar.end]
    assert max(bar.height for bar in bars) == 100


def test_a_sum_just_below_a_whole_point_counts_as_that_point():
    assert [bar.count for bar in overview.histogram([0.6 + 0.3 + 0.1], 1)] == [0, 1]


# --- the CSV ----------------------------------------------------------------------------------


def read(results):
    text = table.as_csv(results).encode("utf-8").decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_the_csv_holds_every_mark_in_a_stable_order(sixty):
    rows = read(sixty)
    assert table.as_csv(sixty) == table.as_csv(sixty[::-1])
    for row, one in zip(rows, table.in_order(sixty), strict=True):
        assert float(row["total"]) == pytest.approx(one.points, abs=1e-4)
        assert (row["state"], row["seed"], row["digest"], row["seconds"]) == (one.state, "4711", "ab" * 32, "1.2346")
        marks = {m.exercise: m for m in one.marks}
        for exercise in EXERCISES:
            cells = [row[f"{exercise.id} {column}"] for column in ("points", "verdict", "mistakes")]
            mine = marks.get(exercise.id)
            assert cells == ([str(mine.points), mine.verdict, "; ".join(mine.mistakes)] if mine else ["", "", ""])


def test_the_columns_stand_in_the_notebooks_order_although_the_first_student_failed():
    first = result("a", [mark(EXERCISES[3], "passed")], "failed", "It ran too long.")
    columns = list(read([first, result("b", [mark(one, "passed") for one in EXERCISES])])[0])
    assert [name.split()[0] for name in columns if name.endswith(" points")] == [one.id for one in EXERCISES]
    assert columns[:5] == ["student", "state", "reason", "total", "out_of"]
    assert columns[-5:] == ["notes", "seed", "digest", "submitted", "seconds"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("＝1", "'＝1"),
        ("  =1", "'  =1"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "⟨U+000D⟩=1"),
        ("a;=1", "a;'=1"),
        ("first\n=1", "first\n'=1"),
        ('first\r\nsecond, "quoted"', 'first\nsecond, "quoted"'),
        ("-5", "-5"),
        ("+3.25", "+3.25"),
        ("0012", "0012"),
        ("a=1", "a=1"),
        ("Zoë 山", "Zoë 山"),
        ("\x00\ud83d\u202e", "⟨U+0000⟩⟨U+D83D⟩⟨U+202E⟩"),
        ("y" * 40_000, "y" * 32_000),
        (";=" * 40_000, (";'=" * 40_000)[:32_000]),
    ],
)
def test_a_spreadsheet_takes_no_text_for_a_formula(text, cell):
    (row,) = read([result(text, (), "failed", text, (text,))])
    assert (row["student"], row["reason"], row["notes"]) == (cell, cell, cell)


def test_a_file_of_nobody_has_its_heading():
    assert table.as_csv([]).startswith("\ufeffstudent,state,reason,total,out_of,notes,")


# --- in a browser -----------------------------------------------------------------------------


def test_the_page_in_a_browser(sixty, tmp_path: Path):
    """It runs nothing of a student's, asks nobody for anything, fits a phone, and sorts by click and by key."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser on PATH")
    file = tmp_path / "report.html"
    file.write_text(report.page(LESSON, sixty, WHEN), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if AS_ROOT else [])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        heard, asked = [], []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        points = lambda: page.eval_on_selector_all(
            "#students tbody td:nth-child(2)", "all => all.map(td => +td.dataset.points)"
        )
        as_written = points()
        page.get_by_role("button", name="Total").click()
        assert points() == sorted(as_written) != as_written
        page.keyboard.press("Enter")
        assert points() == sorted(as_written, reverse=True)
        assert page.locator("th[aria-sort=descending]").count() == 1
        page.get_by_role("button", name="Student").press("Enter")
        assert page.locator("#students tbody th").first.inner_text()
        page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert asked == [file.as_uri()]
        assert heard == []
        # The last line of defence: even a script that got into the page would not run.
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        assert page.evaluate("window.ran") is None
        browser.close()
