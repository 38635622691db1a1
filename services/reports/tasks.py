"""One thin task a job."""

from typing import Any

from sqlmodel import Session

from services.reports import operations
from services.reports.jobs import CompleteBurst, MatchDefinitions, RenderDefinition, RenderReport
from services.reports.settings import ReportsSettings
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks
from shared.objects import ObjectStore
from shared.scratch import scratch

tasks = Tasks()


@tasks.job(MatchDefinitions, time_limit=60)
def match_definitions(attempt: Attempt, args: MatchDefinitions) -> None:
    result: dict[str, int] = {}
    with attempt.finishing(result) as session:
        result |= operations.match_definitions(session, args.envelope)


@tasks.job(RenderDefinition, time_limit=60)
def render_definition(attempt: Attempt, args: RenderDefinition) -> None:
    with attempt.finishing({"skipped": 1}) as session:
        render = operations.render_definition(session, args.definition_id, args.dataset, attempt.job.id)
        if render is not None:
            attempt.continue_as(render)


@tasks.job(RenderReport, time_limit=900)
def render_report(attempt: Attempt, args: RenderReport) -> None:
    settings = ReportsSettings()
    with attempt.reading() as session:
        found = operations.begin_render(session, args.render_id)
    with scratch(settings.scratch_dir, attempt.job.id, attempt.job.attempt) as directory:
        rendered, stored = operations.make_report(ObjectStore(settings.objects_url), found, directory, attempt.progress)
    with attempt.finishing({"render": str(found.id), "artifacts": len(stored)}) as session:
        operations.finish_render(session, found, rendered, stored)


@tasks.job(CompleteBurst, time_limit=60)
def complete_burst(attempt: Attempt, args: CompleteBurst) -> None:
    result: dict[str, int] = {}
    with attempt.finishing(result) as session:
        result |= operations.complete_burst(session, attempt.job, args)


@tasks.redriven(RenderReport)
def rendering_again(session: Session, args: RenderReport) -> None:
    operations.reopen_render(session, args.render_id)


@tasks.failed(RenderReport)
def rendering_failed(session: Session, args: RenderReport, reason: dict[str, Any]) -> None:
    operations.fail_render(session, args.render_id, reason)
