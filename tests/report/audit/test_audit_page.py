"""The audit page: every section's words and figures, escaped, whole, and needing nothing else."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nestling.core.errors import DataError, NestlingError, SettingError
from nestling.judge.contract.change_contract import Contract
from nestling.report.audit import describe_audit, write_audit
from nestling.report.audit.audit_page import SECTIONS, render_audit
from nestling.report.audit.audit_records import AuditRecords

VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text of each section, headings, ids, links, and tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.headings: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if "id" in known:
            self.ids.append(known["id"])
        if tag == "section":
            self._section = known["id"]
            self.sections[self._section] = ""
        if tag == "a":
            self.links.append(known["href"])
        if tag == "img":
            self.alts.append(known["alt"])
        self.sources += [known[name] for name in ("src", "srcset") if name in known]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)
        if tag in ("td", "th", "span") and self._section and "code" not in self.open:
            self.sections[self._section] += " "
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data

    def read(self, section: str) -> str:
        """The text of a section, spaces made one."""
        return " ".join(self.sections[section].split())


@pytest.fixture
def page(governed: Path, now: float) -> Page:
    return Page(write_audit(governed, lambda: now).read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_needs_no_other_file(governed: Path, now: float) -> None:
    path = write_audit(governed, lambda: now)
    assert path == governed / "audit.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert (page.wrong, page.open) == ([], [])
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http:" not in re.sub(r"data:[^\"]*", "", text)
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_reads_on_every_screen_and_in_print(governed: Path, now: float) -> None:
    text = write_audit(governed, lambda: now).read_text(encoding="utf-8")
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 46rem", "tabular-nums"):
        assert rule in text
    assert "width=device-width" in text
    # On a narrow screen cells stand below each other, each with the name of its column.
    cells = len(re.findall(r"<t[dh][^>]* data-head=", text))
    assert cells == len(re.findall(r"<td\b|<th[^>]* scope=\"row\"", text)) > 100


def test_headings_are_in_order_and_pictures_are_described(page: Page) -> None:
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert page.headings.count("h2") == len(SECTIONS) == 11
    assert list(page.sections) == list(SECTIONS)
    steps = [int(tag[1]) for tag in page.headings]
    assert all(later - former <= 1 for former, later in pairwise(steps))
    assert len(page.alts) == 5  # two probes in two views, one level's drift
    assert all(len(alt) > 40 for alt in page.alts)


def test_the_head_says_at_once_how_it_stands(page: Page) -> None:
    text = page.read("head")
    assert (
        "The contract is not kept: clause B2 fails, duty H2 was due by 2026-11-20 and is not met "
        "and the acceptance of risk R2 has expired." in text
    )
    assert "Judged by the run's last check, 2026-11-23T08:00:00Z." in text
    assert "Dr. Amara Okafor, cardiology" in text
    assert "2026-11-02T10:24:00Z by Dr. Li, version v0002" in text
    assert "2: H2 (expired), H1" in text
    assert re.search(r"\b[0-9a-f]{64}\b", text)
    assert "What is not judged has not passed." in text


def test_clauses_are_told_in_plain_words_with_their_state(page: Page) -> None:
    text = page.read("contract")
    assert (
        "M2 may change ✓ passed Level 'spine' may change only by a proposal that passes every gate "
        "and that 2 people other than the proposer approve: new guideline data. How far: at most "
        "2 % per update and 4 % since the last human validation. Between two such changes lie at "
        "least 1 day." in text
    )
    assert "spine alone ✓ passed 0.812 at least 0.750" in text
    assert "0.790 to 0.830 300" in text
    assert "B2 must stay fixed ✗ failed" in text
    assert "B3 must stay fixed not judged" in text
    assert "H1 must change by open" in text
    assert "H2 must change by ✗ expired" in text
    assert "sex-gap false_negative_gap sex 30 999999999999" in text


def test_changes_are_told_newest_first(page: Page) -> None:
    text = page.read("changes")
    order = [text.index(f" {id} 2026") for id in ("v0008", "v0007", "v0006", "v0005", "v0001")]
    assert order == sorted(order)
    assert "under M2 · proposed by ana; approved by Bo Lind and Cem Aydin Why: data of Zur" in text
    assert "spine 1.81 % 2.98 %" in text
    assert "Level 'ward' learned, 2 versions v0004" in text
    assert "No gate is recorded for it." in text
    assert "To undo it: nestling rollback run spine --to v0004" in text
    assert "A setting of level 'ward' was changed" in text


def test_what_people_wrote_is_escaped(governed: Path, now: float) -> None:
    text = write_audit(governed, lambda: now).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "data of Budapest &lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_groups_are_shown_before_and_after(page: Page) -> None:
    text = page.read("groups")
    assert "Too few rows to judge: hospital=Long Beach has 12 rows of 30." in text
    assert (
        "sex=female ✗ worse 0.150 [0.120 to 0.180], 100 rows 0.310 [0.280 to 0.340], 100 rows "
        "+0.160 0.110 [0.080 to 0.140], 100 rows 0.160 [0.130 to 0.190], 100 rows +0.050" in text
    )
    assert "hospital=Long Beach not judged (12 rows)" in text


def test_drift_refusals_and_duties(page: Page) -> None:
    drift = page.read("drift")
    assert "spine 1.23 % 4 % 30.8 % M2 2026-11-02T10:24:00Z by Dr. Li" in drift
    refused = page.read("refusals")
    assert "Proposed because: data of Long Beach" in refused
    assert "B2 passed with the fast levels and failed on the spine alone" in refused
    assert "B2 spine alone ✗ failed 0.170, limit 0.100" in refused
    assert "B3 spine alone not judged" in refused
    assert "What it would have done" in refused
    assert "sex=female ✗ worse 0.150" in refused
    duties = page.read("duties")
    assert duties.index("H2 ✗ expired 2026-11-20 8 days ago") < duties.index("H1 open 2027-01-31")
    assert "64 days left" in duties


def test_feedback_risks_versions_and_mapping(page: Page) -> None:
    feedback = page.read("feedback")
    assert "ward 7 rate held 2 2026-11-04T10:24:00Z labels per hour 48.000" in feedback
    assert "ward 9 norm refused 1" in feedback
    assert "brake ward an update was not finite" in feedback
    assert "alarm spine half of the spine's budget is used" in feedback
    risks = page.read("risks")
    assert "critical B1, sex-gap, double reading about 2 in 100 Dr. Okafor 2026-12-31" in risks
    assert "2026-11-01 27 days ago ✗ expired" in risks
    assert "minor none not said nobody" in risks
    assert "Internal audit 2026-04-01 2026-09-30 59 days ago ✗ expired" in risks
    assert "nestling rollback" in page.read("undo")
    assert "rolled back Dr. Li v0006" in page.read("undo")
    mapping = page.read("mapping")
    assert "It claims no conformity with any rule" in mapping
    assert "Mapping, version 1 of 2026-11-28." in mapping
    for rule in ("FDA PCCP", "Annex IV 2(f)", "Art. 12", "SR 26-2", "A.6.2.8"):
        assert rule in mapping
    assert {"#clause-B1", "#probe-sex-gap"} <= set(page.links)


def test_a_contract_alone_gives_a_page_that_says_what_is_not_there(
    make_run: Callable[..., AuditRecords], now: float
) -> None:
    page = Page(render_audit(make_run(contract=Contract("empty")), now))
    assert (page.wrong, page.open) == ([], [])
    assert list(page.sections) == list(SECTIONS)
    for section, words in {
        "head": "versions.jsonl is missing",
        "contract": "The contract has no clauses: no level may change",
        "changes": "No change is recorded.",
        "groups": "No probe compares groups or slices",
        "drift": "The contract names no level as spine",
        "refusals": "No proposal was refused.",
        "duties": "The contract names no known harm",
        "feedback": "No feedback was held or refused.",
        "risks": "The contract holds no risk review.",
        "undo": "No version is recorded",
    }.items():
        assert words in page.read(section), section
    assert "No level was braked, and no alarm was raised." in page.read("feedback")
    assert "No person has reviewed the contract." in page.read("risks")
    assert page.alts == []


def test_damaged_lines_are_named_at_the_top(governed: Path, now: float) -> None:
    with (governed / "governance.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"happening": "vanished", "at": 1.0, "message": ""}\n{"happ')
    page = Page(write_audit(governed, lambda: now).read_text(encoding="utf-8"))
    head = page.read("head")
    assert "The record is not whole. What these lines said is missing from this page:" in head
    assert "governance.jsonl, line 26 is left out" in head
    assert "'happening' is 'vanished'" in head
    assert "governance.jsonl, line 27 was cut off, as by a crash" in head


def test_versions_of_another_contract_are_named(governed: Path, now: float) -> None:
    path = governed / "contract.toml"
    path.write_text(path.read_text().replace("new guideline data", "whatever"))
    head = Page(write_audit(governed, lambda: now).read_text(encoding="utf-8")).read("head")
    assert "8 versions (v0001, ..., v0008) came about under another text of the contract" in head


def test_versions_after_the_last_check_are_counted(
    make_run: Callable[..., AuditRecords], governed: Path, now: float
) -> None:
    path = governed / "findings.json"
    data = json.loads(path.read_text())
    data["at"] = now - 10 * 86_400.0
    path.write_text(json.dumps(data))
    head = Page(write_audit(governed, lambda: now).read_text(encoding="utf-8")).read("head")
    assert "last check, 2026-11-18T08:00:00Z; 1 version came after it." in head


def test_the_sections_are_json(governed: Path, now: float) -> None:
    data: dict[str, Any] = json.loads(
        json.dumps(describe_audit(governed, lambda: now), allow_nan=False)
    )
    assert list(data) == list(SECTIONS)
    assert data["head"]["verdict"]["state"] == "broken"
    assert data["head"]["expired_duties"] == ["H2"]
    assert data["drift"][0]["budget"] == 0.04
    assert data["refusals"][0]["masked"] == ["B2"]
    assert data["mapping"]["date"] == "2026-11-28"
    assert data["groups"][0]["curves"]["spine"][3]["points"][0] == [0, None, None, None]


def test_a_run_without_a_contract_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no contract\.toml.*leave --audit out"):
        write_audit(tmp_path, lambda: 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_contract_is_refused(governed: Path, now: float) -> None:
    (governed / "contract.toml").write_text("name = ")
    with pytest.raises(SettingError, match="is not TOML"):
        write_audit(governed, lambda: now)
    assert not (governed / "audit.html").exists()


def test_a_page_that_cannot_be_written_is_said(governed: Path, now: float) -> None:
    (governed / "audit.html").mkdir()
    with pytest.raises(NestlingError, match="cannot write"):
        write_audit(governed, lambda: now)


def test_the_page_is_the_same_for_the_same_records(governed: Path, now: float) -> None:
    first = write_audit(governed, lambda: now).read_bytes()
    assert write_audit(governed, lambda: now).read_bytes() == first
