"""The in-process router: concurrent callers in, groups out to the fleet's servers, answers back."""

from orchestrator.router.core import Router
from orchestrator.router.lanes import Backlog
from orchestrator.router.membership import ResolvedNames
from orchestrator.router.observer import RouterObserver
from orchestrator.router.preparing import compile_ahead
from orchestrator.router.reply import Reply
from orchestrator.router.request import Answer
from orchestrator.router.retry import RetryBudget

__all__ = ["Answer", "Backlog", "Reply", "ResolvedNames", "RetryBudget", "Router", "RouterObserver", "compile_ahead"]
