"""A bundle beside the checkpoint that it was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipstone.lazy import lazy_names

if TYPE_CHECKING:
    from skipstone.check.contract_trial import PROCESSOR_TARGET, Clause, ContractBundles
    from skipstone.check.device_contract import check_clauses
    from skipstone.check.export_check import KEPT_KL_BOUND, ExportCheck
    from skipstone.check.parity import LOGIT_TOLERANCE, Difference, Parity, compare, sample_tokens
    from skipstone.check.prefill_check import PrefillCheck
    from skipstone.check.reference import TransformersReference, require_transformers
    from skipstone.check.sizes import draft_head_tokens, part_sizes

__all__ = [
    "KEPT_KL_BOUND",
    "LOGIT_TOLERANCE",
    "PROCESSOR_TARGET",
    "Clause",
    "ContractBundles",
    "Difference",
    "ExportCheck",
    "Parity",
    "PrefillCheck",
    "TransformersReference",
    "check_clauses",
    "compare",
    "draft_head_tokens",
    "part_sizes",
    "require_transformers",
    "sample_tokens",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Clause": "skipstone.check.contract_trial",
        "ContractBundles": "skipstone.check.contract_trial",
        "Difference": "skipstone.check.parity",
        "ExportCheck": "skipstone.check.export_check",
        "KEPT_KL_BOUND": "skipstone.check.export_check",
        "LOGIT_TOLERANCE": "skipstone.check.parity",
        "PROCESSOR_TARGET": "skipstone.check.contract_trial",
        "Parity": "skipstone.check.parity",
        "PrefillCheck": "skipstone.check.prefill_check",
        "TransformersReference": "skipstone.check.reference",
        "check_clauses": "skipstone.check.device_contract",
        "compare": "skipstone.check.parity",
        "draft_head_tokens": "skipstone.check.sizes",
        "part_sizes": "skipstone.check.sizes",
        "require_transformers": "skipstone.check.reference",
        "sample_tokens": "skipstone.check.parity",
    },
)
