"""The interview bank: complete, in both languages, and every link leads somewhere."""

import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import combinations

import jsonschema
import pytest
import yaml

from ctkd_lessons.course.comparing import differs
from ctkd_lessons.course.examine import cases_of, examine, expected_of, observe
from ctkd_lessons.course.exercises import find as find_exercise
from ctkd_lessons.course.interview import bank, coding, lists, present
from ctkd_lessons.course.lessons import ROOT, read_notebook

QUESTIONS = bank.questions()
every_question = pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
CODING = [question for question in QUESTIONS if question.kind == "coding"]
FILES = {**dict.fromkeys(bank.topics(), "questions"), **{n: n for n in ("topics", "papers", "glossary", "articles")}}


def raw(name):
    return yaml.safe_load((bank.FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def notebooks():
    return {path.name[:2]: read_notebook(path) for path in sorted((ROOT / "notebooks").glob("[0-8]*.ipynb"))}


NOTEBOOKS = notebooks()


# --- form -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_each_file_keeps_to_the_schema(name, kind):
    schema = bank.schema()
    jsonschema.validate(raw(name), {"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})


def test_no_file_is_left_out():
    assert {path.stem for path in bank.FOLDER.glob("*.yaml")} == set(FILES)


def test_ids_are_unique_and_begin_with_their_topic():
    counts = Counter(question.id for question in QUESTIONS)
    assert [name for name, count in counts.items() if count > 1] == []
    assert [q.id for q in QUESTIONS if not q.id.startswith(f"{q.topic.replace('_', '-')}-")] == []


@every_question
def test_answers_have_the_length_of_an_answer(question):
    words = len(question.text["en"].answer.split())
    assert 50 <= words <= 220, words
    chinese = len(re.findall(r"[\u4e00-\u9fff]", question.text["zh"].answer))
    assert 80 <= chinese <= 480, chinese


@every_question
def test_both_languages_say_the_same(question):
    english, chinese = question.text["en"], question.text["zh"]
    for field in ("points", "wrong", "follow_ups"):
        assert len(getattr(english, field)) == len(getattr(chinese, field)), field
    texts = [chinese.question, chinese.answer, *chinese.points, *chinese.follow_ups]
    assert all(re.search(r"[\u4e00-\u9fff]", text) for text in texts)
    assert not re.search(r"[\u4e00-\u9fff]", " ".join([english.question, english.answer, *english.points]))


def alike(left, right):
    return SequenceMatcher(None, left, right, autojunk=False).ratio()


@pytest.mark.parametrize("language", bank.LANGUAGES)
def test_no_two_questions_ask_the_same(language):
    texts = [(question.id, question.text[language].question.lower()) for question in QUESTIONS]
    pairs = [(a, b) for (a, x), (b, y) in combinations(texts, 2) if alike_enough(x, y)]
    assert pairs == []


def alike_enough(left, right):
    # Cheap upper bounds first: there are thousands of pairs.
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    return matcher.real_quick_ratio() > 0.85 and matcher.quick_ratio() > 0.85 and matcher.ratio() > 0.85


# --- how many ---------------------------------------------------------------------------------


def test_there_is_enough_of_each_kind():
    kinds = Counter(question.kind for question in QUESTIONS)
    assert len(QUESTIONS) >= 120
    assert kinds["coding"] >= 25
    assert kinds["derivation"] >= 15
    assert kinds["debugging"] >= 15
    assert kinds["design"] >= 12
    assert set(Counter(question.level for question in QUESTIONS)) == {1, 2, 3}


def test_the_readme_counts_right():
    assert f"{len(QUESTIONS)} questions with marking points" in (ROOT / "README.md").read_text(encoding="utf-8")


# --- links ------------------------------------------------------------------------------------


@every_question
def test_links_lead_somewhere(question):
    cells = {cell.id for cell in NOTEBOOKS[question.lesson].cells}
    assert question.section in cells, f"lesson {question.lesson} has no cell {question.section!r}"
    for paper in question.papers:
        assert paper in bank.papers()
    assert len(present.claim_numbers(question)) == len(question.claims)
    if question.figure:
        assert (bank.FOLDER / "figures" / question.figure).read_bytes().startswith(b"\x89PNG")


def test_every_figure_belongs_to_a_question():
    kept = {path.name for path in (bank.FOLDER / "figures").iterdir()}
    assert kept == {question.figure for question in QUESTIONS if question.figure}


def test_every_paper_is_cited():
    assert set(bank.papers()) == {paper for question in QUESTIONS for paper in question.papers}


def test_the_table_of_articles_and_the_questions_agree():
    table = {
        (f"{number} {part}", name)
        for number, article in bank.articles().items()
        for part, entry in article["parts"].items()
        for name in entry["ids"]
    }
    assert table == {(part, question.id) for question in QUESTIONS for part in question.articles}
    assert set(bank.articles()) == {"000", "001", "002", "003", "004"}


@pytest.mark.parametrize("question", CODING, ids=lambda question: question.id)
def test_a_coding_question_is_checked_by_its_exercise(question):
    exercise = find_exercise(question.exercise)
    assert examine(exercise, exercise.reference).passed
    known = {mistake.name: mistake for mistake in exercise.mistakes}
    for name in question.mistakes:
        cases = zip(cases_of(exercise), expected_of(exercise), strict=True)
        wrong = exercise.variant(known[name])
        assert any(differs(want, observe(exercise, wrong, case)) for case, want in cases), name


@pytest.mark.parametrize("language", bank.LANGUAGES)
@pytest.mark.parametrize("question", CODING, ids=lambda question: question.id)
def test_the_code_in_a_model_answer_passes_the_check(question, language):
    imports = coding.starter(question.exercise).partition("\n\n\n")[0]
    (code,) = re.findall(r"```python\n(.*?)```", question.text[language].answer, re.DOTALL)
    assert coding.check_source(question.exercise, f"{imports}\n\n\n{code}").passed


# --- the lessons' own lists -------------------------------------------------------------------


@pytest.mark.parametrize("number", [number for number in NOTEBOOKS if number != "00"])
def test_a_lesson_s_questions_are_drawn_from_the_bank(number):
    cell = next(cell for cell in NOTEBOOKS[number].cells if cell.id == "interview")
    assert cell.source == lists.lesson_section(number, cell.source.splitlines()[0])
    assert cell.source.count("<details>") >= 4


# --- what goes wrong --------------------------------------------------------------------------


@pytest.fixture
def broken_bank(tmp_path, monkeypatch):
    monkeypatch.setattr(bank, "FOLDER", tmp_path)
    (tmp_path / "topics.yaml").write_text("shift: {en: Shift, zh: 偏移}\n", encoding="utf-8")
    caches = (bank.topics, bank.questions)
    for function in caches:
        function.cache_clear()
    yield tmp_path / "shift.yaml"
    for function in caches:
        function.cache_clear()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {id: a-b, level: 1", "shift.yaml cannot be read"),
        ("- {id: a-b, level: 1, kind: concept}", "shift.yaml, question 'a-b': the field 'lesson' is missing"),
        ("- {id: a-b, level: 1, kind: concept, lesson: 3}", "shift.yaml, question 'a-b': a field has the wrong form"),
        ("- just a text", "shift.yaml, question 'just a text'"),
    ],
)
def test_a_broken_file_is_named_with_question_and_field(broken_bank, text, words):
    broken_bank.write_text(text, encoding="utf-8")
    with pytest.raises(bank.BankError, match=re.escape(words)):
        bank.questions()


def test_an_unknown_topic_or_question_is_told(broken_bank):
    broken_bank.write_text("[]", encoding="utf-8")
    with pytest.raises(bank.BankError, match=r"no topic 'nothing'. There are: shift"):
        bank.questions("nothing")
    with pytest.raises(bank.BankError, match="no question 'nothing'"):
        bank.find("nothing")
