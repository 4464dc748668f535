"""The in-process router: concurrent callers in, batches out to the fleet's servers, answers back."""

from orchestrator.router.dispatch.compilation import compile_ahead, compile_into, load_ahead
from orchestrator.router.dispatch.retry_rules import RetryBudget
from orchestrator.router.observer import RouterObserver
from orchestrator.router.overview import FamilyOverview, FleetOverview, ServerOverview, WidthOverview, merge_overviews
from orchestrator.router.queue.request import Answer, CallbackSink, Transit
from orchestrator.router.queue.request_queue import Backlog
from orchestrator.router.queue.trace import Attempt, Trace, context_of, draw_id
from orchestrator.router.router import Router, connect_triton
from orchestrator.router.servers.membership import ResolvedNames, addresses_to_use, resolve_host
from orchestrator.router.share import FleetShare

__all__ = [
    "Answer",
    "Attempt",
    "Backlog",
    "CallbackSink",
    "FamilyOverview",
    "FleetOverview",
    "FleetShare",
    "ResolvedNames",
    "RetryBudget",
    "Router",
    "RouterObserver",
    "ServerOverview",
    "Trace",
    "Transit",
    "WidthOverview",
    "addresses_to_use",
    "compile_ahead",
    "compile_into",
    "connect_triton",
    "context_of",
    "draw_id",
    "load_ahead",
    "merge_overviews",
    "resolve_host",
]
