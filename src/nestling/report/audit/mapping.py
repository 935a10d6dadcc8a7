"""Which section of the audit page bears on which demand of a rule: data with a version and a date.

The demands are in our words and were read second-hand: a map to find one's way, no legal advice.
"""

from dataclasses import dataclass
from datetime import date

MAPPING_VERSION = "1"
MAPPING_DATE = date(2026, 11, 28)
DISCLAIMER = (
    "This table helps to find what a rule asks about. It claims no conformity with any rule: "
    "that is for whoever answers for the system, and for those who supervise them, to judge. "
    "The demands are in our own words, from second-hand readings; check them against the texts."
)


@dataclass(frozen=True)
class MappedDemand:
    """One demand of a rule and the sections of the page that bear on it.

    Attributes:
        rule: its name and where in it.
        asks: in our words.
        sections: keys of the page's sections.
        silent: what this page does not say of it.
    """

    rule: str
    asks: str
    sections: tuple[str, ...]
    silent: str


MAPPING: tuple[MappedDemand, ...] = (
    MappedDemand(
        "FDA PCCP: description of modifications",
        "Each planned change, specific, limited and verifiable; automatic or by hand; for all "
        "sites or for each by itself.",
        ("contract", "changes"),
        "Changes of anything but the model's levels, such as its labelling.",
    ),
    MappedDemand(
        "FDA PCCP: modification protocol",
        "How data are kept, how the model is trained anew, judged and updated, and which steps "
        "belong to which change.",
        ("contract", "changes", "refusals", "undo"),
        "How data were collected and labelled, beyond the words of the contract.",
    ),
    MappedDemand(
        "FDA PCCP: impact assessment",
        "Changed against unchanged version, benefits and risks, unintended bias, and what "
        "changes do together.",
        ("groups", "drift", "risks"),
        "Clinical benefit; only what the probes measure is seen.",
    ),
    MappedDemand(
        "EU AI Act, Annex IV 2(f)",
        "Changes of the system that were determined beforehand, and how its performance is kept.",
        ("contract", "duties"),
        "The rest of the technical documentation of point 2.",
    ),
    MappedDemand(
        "EU AI Act, Annex IV 3",
        "Monitoring, functioning and control: what it can and cannot do, for which groups, with "
        "which risks.",
        ("groups", "drift", "feedback", "risks"),
        "Measures of human oversight beyond approvals, validations and rollback.",
    ),
    MappedDemand(
        "EU AI Act, Annex IV 9 (Art. 72)",
        "How the system is watched after it came into use.",
        ("duties", "feedback", "drift"),
        "The plan itself, and the reporting of incidents (Art. 73).",
    ),
    MappedDemand(
        "EU AI Act, Art. 12",
        "Automatic logs that let one find risks and substantial changes, and follow the system "
        "in use.",
        ("changes", "refusals", "feedback", "undo"),
        "Single predictions, and proof that the log was not rewritten.",
    ),
    MappedDemand(
        "SR 26-2",
        "Inventory, sound concept, validation with effective challenge, analysis of outcomes, "
        "monitoring by materiality.",
        ("head", "contract", "changes", "groups", "drift"),
        "The inventory of an institution; generative AI is outside of SR 26-2.",
    ),
    MappedDemand(
        "ISO/IEC 42001, A.6.2.4",
        "Verification and validation.",
        ("contract", "changes", "groups"),
        "Criteria for when validation is done, beyond the contract's.",
    ),
    MappedDemand(
        "ISO/IEC 42001, A.6.2.6",
        "Operation: monitoring, repairs, updates, support.",
        ("drift", "feedback", "undo"),
        "Support of users.",
    ),
    MappedDemand(
        "ISO/IEC 42001, A.6.2.8",
        "Event logs, at least while the system is in use.",
        ("changes", "refusals", "feedback"),
        "How long logs are kept.",
    ),
)
