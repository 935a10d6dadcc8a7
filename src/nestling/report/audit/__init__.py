"""Audit report: what the records of a governed run say, as one page that an auditor can read."""

from nestling.report.audit.audit_page import describe_audit, write_audit
from nestling.report.audit.audit_records import AuditRecords, read_audit_records

__all__ = ["AuditRecords", "describe_audit", "read_audit_records", "write_audit"]
