"""The Anki package in a real collection of Anki's own library: imported twice, it doubles nothing."""

import dataclasses
import re

import pytest
from anki.collection import Collection, ImportAnkiPackageOptions, ImportAnkiPackageRequest

from ctkd_lessons.course.interview import bank
from ctkd_lessons.course.interview.anki import DECKS, deck
from ctkd_lessons.course.interview.bank import LANGUAGES
from ctkd_lessons.course.interview.markup import for_anki
from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.interview.present import answer_markdown, question_markdown
from ctkd_lessons.course.lessons import CourseError

FORMULA = r"\(T^2 < \frac{a}{b}\)"


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture
def collection(tmp_path):
    collection = Collection(str(tmp_path / "collection.anki2"))
    yield collection
    collection.close()


@pytest.fixture
def questions():
    """Return all questions; the first asks about a formula."""
    first, *others = bank.questions()
    return [asking(first, "Wherefore does $T^2 < \\frac{a}{b}$ hold?"), *others]


def asking(question, words):
    text = {name: dataclasses.replace(one, question=words) for name, one in question.text.items()}
    return dataclasses.replace(question, text=text)


def import_into(collection, path):
    options = ImportAnkiPackageOptions(merge_notetypes=True, with_scheduling=False)
    return collection.import_anki_package(ImportAnkiPackageRequest(package_path=str(path), options=options)).log


def answer_next(collection):
    card = collection.sched.getCard()
    collection.sched.answerCard(card, 3)
    return card.id


def test_a_second_import_updates_and_doubles_nothing(language, collection, questions, tmp_path):
    count = deck(language, tmp_path / "first.apkg", questions)
    log = import_into(collection, tmp_path / "first.apkg")
    assert len(log.new) == count == collection.note_count() == collection.card_count() == len(questions)

    collection.decks.select(collection.decks.id_for_name(DECKS[language]))
    practised = answer_next(collection)
    before = collection.get_card(practised)
    notes = set(collection.find_notes(""))

    changed = [asking(questions[0], "Another wording?"), *questions[1:]]
    deck(language, tmp_path / "second.apkg", changed, timestamp=collection.mod / 1000 + 60)
    log = import_into(collection, tmp_path / "second.apkg")
    assert len(log.new) == 0
    assert set(collection.find_notes("")) == notes, "notes doubled or lost"
    assert collection.card_count() == count
    assert len(collection.find_notes('"Another wording"')) == 1
    after = collection.get_card(practised)
    assert after.reps == before.reps == 1
    assert (after.due, after.ivl, after.queue) == (before.due, before.ivl, before.queue)


def test_a_deck_per_topic_with_formulas_and_figures(language, collection, questions, tmp_path):
    deck(language, tmp_path / "bank.apkg", questions)
    import_into(collection, tmp_path / "bank.apkg")
    names = {one.name for one in collection.decks.all_names_and_ids(include_filtered=False)}
    assert {f"{DECKS[language]}::{title[language]}" for title in bank.topics().values()} <= names
    note = collection.get_note(collection.find_notes("Wherefore")[0])
    assert FORMULA.replace("<", "&lt;") in note["Question"]
    shown = note.cards()[0].render_output(browser=False)
    assert "Wherefore" in shown.question_text
    assert say("answer", language) in shown.answer_text
    for question in filter(lambda question: question.figure, questions):
        note = collection.get_note(collection.find_notes(f"tag:{question.topic} {question.figure}")[0])
        assert f'<img src="{question.figure}"' in note["Figure"]
        assert collection.media.have(question.figure)


def test_both_languages_live_beside_each_other(collection, tmp_path):
    for language in LANGUAGES:
        deck(language, tmp_path / f"{language}.apkg")
        import_into(collection, tmp_path / f"{language}.apkg")
    assert collection.note_count() == len(LANGUAGES) * len(bank.questions())


def test_every_question_is_rendered_without_a_rest_of_markdown(language):
    for question in bank.questions():
        whole = for_anki(question_markdown(question, language) + "\n\n" + answer_markdown(question, language))
        text = re.sub(r"(?s)<(code|pre)\b.*?</\1>|\\\(.*?\\\)|\\\[.*?\\\]", "", whole)
        assert not re.search(r"\*\*\S|\S\*\*|\$", text), question.id


def test_unknown_language_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CourseError, match="There is no language 'fr'"):
        deck("fr", tmp_path / "bank.apkg")
    with pytest.raises(CourseError, match=r"bank\.apkg cannot be written: No such file"):
        deck("en", tmp_path / "none" / "bank.apkg", bank.questions()[:1])
