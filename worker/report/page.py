"""The report as HTML, one file without scripts and without links to elsewhere, and as text."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jinja2

from nightread.text import show_duration, show_text
from worker.report.charts import draw_scores, draw_shares, draw_throughput

if TYPE_CHECKING:  # it opens networks, and so imports ONNX Runtime
    from worker.report.run_report import RunReport

_TEMPLATES: Final = Path(__file__).parent


def render_page(reports: Sequence["RunReport"], title: str) -> str:
    """Return the report of some runs as HTML.

    Args:
        reports: of the runs, in the order of the page.
        title: of the page.
    """
    environment = make_environment()
    environment.globals |= {
        "draw_scores": draw_scores, "draw_shares": draw_shares, "draw_throughput": draw_throughput
    }  # fmt: skip
    return str(environment.get_template("page.html").render(reports=reports, title=title))


def make_environment() -> jinja2.Environment:
    """Return the templates of pages that stand alone; all text is escaped: names of files are of unknown origin."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "text": show_text, "duration": show_duration, "time": _show_time, "number": "{:,}".format,
        "score": "{:.4f}".format, "file": _show_file,
    }  # fmt: skip
    return environment


def _show_time(time: datetime | None) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S %Z}" if time else ""


def _show_file(path: str) -> str:
    return show_text(path.rpartition("/")[2])


def render_text(report: "RunReport") -> str:
    """Return the report of a run as text, without pictures and histograms."""
    facts = report.facts
    lines = [
        f"run {facts['run'][:8]} ({show_text(facts['name'])}) {facts['status']}: {facts['provenance']['model']}",
        facts["reconciliation"],
    ]
    if facts["guard"] not in {None, "passed"}:
        lines.append(f"GUARD {facts['guard']}: {facts['guard_text']}")
    if facts["pruned"]:
        lines.append(f"{facts['pruned']:,} more scans were pruned")
    lines.append(
        f"from {_show_time(facts['created_at'])}, {show_duration(facts['seconds'])}, "
        f"{facts['scans_per_second']:,} scans/s"
    )
    if stages := facts["stages"]:
        parts = ", ".join(f"{stage} {share:.0%}" for stage, share in stages["shares"].items())
        lines.append(f"time of the jobs: {parts}; {stages['mean_batch_size'] or 0:g} scans in a batch on average")
    for label, described in facts["labels"].items():
        decisions = ", ".join(f"{count:,} {name}" for name, count in sorted(facts["decisions"].items()))
        lines += ["", f"{label}: {decisions or 'no score'}"]
        if (band := described["near"]) is not None:
            what = "in the abstain band" if band["is_abstain_band"] else "near the threshold"
            lines.append(f"{band['count']:,} scores {what}, {band['from']:.3f} to {band['to']:.3f}")
        lines += [
            f"  {scan['score']:.4f}  {scan['decision']}  {show_text(scan['path'])}" for scan in described["highest"]
        ]
    if facts["reasons"]:
        lines += ["", "without a score"]
    for reason in facts["reasons"]:
        lines.append(f"{reason['count']:,} {reason['status']} {reason['reason']}")
        lines += [f"  {show_text(one['path'])}: {show_text(one['text'])}" for one in reason["examples"]]
    return "\n".join([*lines, "", f"drift: {facts['drift']['sentence']}", ""])
