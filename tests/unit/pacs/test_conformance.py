import re

from pacs.conformance import describe_tables
from tests.project import read


def test_statement_holds_what_is_negotiated():
    page = read("docs/dicom-conformance.md")
    found = {title: text.strip() + "\n" for title, text in re.findall(r"(?ms)^### (.+?)\n\n(\|.*?)\n(?=\n|\Z)", page)}
    assert found == describe_tables(), "these tables are written by describe_tables"
