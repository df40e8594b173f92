"""A routectl.ci/1 document as JUnit XML: a test case a run.

Elements and attributes are those of the schema of Jenkins' xUnit plugin (junit-10.xsd), which
GitLab and the readers of GitHub take too.
"""

import re
from xml.etree import ElementTree as ET

from ..diff.document import Document

__all__ = ["junit_xml"]

_ILLEGAL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


def junit_xml(document: Document) -> bytes:
    """The document as XML in UTF-8: failures for what failed, errors for trouble."""
    runs = document["runs"]
    counts = {
        "tests": str(len(runs)),
        "failures": str(document["counts"]["failed"]),
        "errors": str(document["counts"]["trouble"]),
        "time": _seconds(sum(run["seconds"] for run in runs)),
    }
    suites = ET.Element("testsuites", {"name": "routectl", **counts})
    config = _legal(document["config"])
    suite = ET.SubElement(suites, "testsuite", {"name": config, **counts, "skipped": "0"})
    for run in runs:
        about = {"name": _legal(run["name"]), "classname": f"routectl.{run['verb']}"}
        case = ET.SubElement(suite, "testcase", {**about, "time": _seconds(run["seconds"])})
        if run["status"] == "passed":
            ET.SubElement(case, "system-out").text = _legal(run["summary"])
            continue
        tag, kind = ("failure", "Over") if run["status"] == "failed" else ("error", "Trouble")
        problem = ET.SubElement(case, tag, {"type": kind, "message": _legal(run["summary"])})
        problem.text = _legal("\n".join(run["details"] or [run["summary"]]))
    ET.indent(suites)
    text: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _legal(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _ILLEGAL.sub("�", text)
