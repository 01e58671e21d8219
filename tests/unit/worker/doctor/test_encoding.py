import sys

from rich.console import Console
from rich.file_proxy import FileProxy

from worker.doctor.finding import Level
from worker.doctor.host import check_encoding


def test_the_encoding_is_found_while_a_spinner_has_taken_the_place_of_stdout(monkeypatch):
    """`doctor` on a terminal: Rich's object in the place of sys.stdout says None."""
    monkeypatch.setattr(sys, "stdout", FileProxy(Console(), sys.stdout))
    finding = check_encoding(None)
    assert finding.level is not Level.FAIL
    assert sys.__stdout__.encoding in finding.found
