"""The glossary, and the names of classes and modules that obey it."""

import ast
import re

from tests.factories import ROOT
from tests.project import read, read_packages

#: Names of projects, formats and data sets.
PROPER = """
    celery chest cnn covid csv dicom efficientnetlite gzip inception inceptionresnetv keras lenet nightread onnx
    openapi pediatric platt postgresql qos tiff torch utc web zip
"""
#: Nouns with the same meaning in the code as everywhere.
PLAIN = """
    color completion example group help injection offer panel
    api app array auc bar bench cause change channel chart child choice cli clock cluster column command config console
    count curve data database dataset date db device dialect engine entry env error exit fact fault feature field file
    filter format header history host hyperparameter index info input line list listing log machine main memory metric
    mistake monitor name optimizer option output page pair part path plot pool position process progress rate
    reader record report request response result round row schema search server setting share skip source spec statistic
    storage summary table text thread time trainer transport tuner type uid variation view walk way weight
    backup call processor protocol rule system
    socket context title kind lookup conformance stow sender store
    cache finder missing recent
    query histogram operation problem private
    answer disk sheet value loader
"""
#: Adjectives, participles, verbs and their nouns.
OTHERS = """
    explain strike taken changed
    again ahead assessment augment bulk by cancel catalog check checked choose claimed compare compared conversion
    converted counted decode decoding demo divided doctor download downloaded drawn due early ended ending enqueue
    enqueued evaluate evaluation export exported exporter external extra fetched fit fitted follow follower found
    full given global guarded idle import imported inference isolated isolation judged labelled load lost measured
    mismatch mixed new no not nothing now open outdated overdue packed partial pixel predict prepared rare refused
    rejections retry s scaling scored scorer showing started stored struck sweeper to train try unavailable unknown
    inferred unreadable unsupported up waiting why wrong accepted over cancellation consistency gone old pruned
    retention verification verified collector exposition listed picture example scheduled scheduler notify timed
    receive receiver filed quiet patient maker planned written fetch fetcher send claimed
"""


def read_terms():
    lines = [line for line in read("docs/glossary.md").splitlines() if line.startswith("| ")]
    return [term for line in lines[1:] for term in line.split("|")[1].strip().split(", ")]


def split_name(name):
    """Return the words of a name: `DicomUids` is `dicom`, `uids`."""
    return [word.lower() for word in re.findall(r"QoS|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def find_names():
    """Yield the name of each folder, module and class of the packages."""
    for package in read_packages():
        for path in ROOT.glob(f"{package}/**/*.py"):
            if path.parent.name != "versions":  # which tell what a migration changes
                yield path.parent.name if path.stem == "__init__" else path.stem
                tree = ast.parse(path.read_text(encoding="utf-8"))
                yield from (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def find_singulars(word):
    endings = {"ies": "y", "es": "", "s": ""}
    return {word} | {word.removesuffix(end) + new for end, new in endings.items() if word.endswith(end)}


def test_glossary_gives_each_word_one_row():
    terms = read_terms()
    assert len(terms) == len(set(terms))


def test_names_are_words_of_the_glossary():
    words = {word.lower() for term in read_terms() for word in re.split(r"[\s-]", term)}
    words |= set(f"{PROPER} {PLAIN} {OTHERS}".split())
    unknown = {}
    for name in find_names():
        for word in split_name(name):
            if not find_singulars(word) & words:
                unknown.setdefault(word, set()).add(name)
    assert unknown == {}, "give each noun a row in docs/glossary.md"


def test_glossary_defines_no_word_of_plain_english():
    assert set(read_terms()) & set(f"{PLAIN} {OTHERS}".split()) == set()
