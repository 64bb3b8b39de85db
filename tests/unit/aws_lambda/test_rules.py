"""The thirteen rules of the ideal adapter (issue 11), each with the tests that hold it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

TESTS = Path(__file__).resolve().parents[2]
HANDLER, EVENTS, ADVERSARY = (
    f"unit/aws_lambda/test_{name}.py" for name in ("handler", "events", "adversary")
)

#: Rule -> file and test, as many as it takes.
RULES: Final[dict[str, list[tuple[str, str]]]] = {
    "1. All is built at import, nothing per invocation; no SDK on a task's way": [
        (HANDLER, "test_nothing_is_built_per_invocation"),
        ("integration/test_lambda_cold_start.py", "test_without_a_results_store"),
        ("integration/test_lambda_cold_start.py", "test_with_results_in_dynamodb_and_a_retry"),
    ],
    "2. Records, a bare list, what SNS wrapped or passed on raw, several queues, any partition; md5OfBody": [
        (EVENTS, "test_a_record_of_an_event_source_mapping"),
        (EVENTS, "test_the_bare_list_of_eventbridge_pipes"),
        (EVENTS, "test_what_sns_wrapped_is_unwrapped_with_its_attributes"),
        (EVENTS, "test_what_sns_passed_on_raw_keeps_its_attributes"),
        (EVENTS, "test_records_of_several_queues_keep_their_own"),
        (EVENTS, "test_queues_of_every_partition"),
        (EVENTS, "test_a_body_that_was_damaged_on_its_way_comes_again"),
        (HANDLER, "test_several_queues_in_one_function"),
        (ADVERSARY, "test_every_shape_runs_its_task"),
    ],
    "3. Nothing starts that does not fit; the rest goes back at once": [
        (HANDLER, "test_what_does_not_fit_any_more_goes_back_unstarted_and_at_once"),
        (HANDLER, "test_the_margin"),
        (HANDLER, "test_what_95_of_100_runs_stayed_under"),
        (ADVERSARY, "test_who_has_only_waited_is_first_so_that_nobody_waits_until_the_redrive_limit"),
    ],
    "4. A soft timeout for each task; none takes the batch down": [
        (HANDLER, "test_the_invocations_end_strikes_as_a_soft_limit_and_the_task_comes_again"),
        (HANDLER, "test_a_coroutine_is_cut_short_too"),
        (HANDLER, "test_a_tasks_own_limit_is_its_own_fault"),
        (HANDLER, "test_a_task_that_nothing_stops_does_not_take_its_batch_down"),
        ("integration/test_lambda_runtime.py", "test_a_process_that_dies_or_hangs_loses_nothing"),
    ],
    "5. Retries with their backoff; terminal ones go to the dead letters with the reason": [
        (HANDLER, "test_a_retry_on_a_standard_queue_is_a_new_message"),
        (HANDLER, "test_reject_goes_to_the_dead_letters_and_requeue_comes_back"),
        (HANDLER, "test_what_cannot_be_read_is_buried_and_not_reported"),
        ("unit/test_spine.py", "test_autoretry_backs_off"),
    ],
    "6. FIFO groups side by side, in order inside; a return stops only its group": [
        (HANDLER, "test_a_retry_on_a_fifo_queue_keeps_its_place"),
        (ADVERSARY, "test_nothing_of_a_fifo_group_overtakes_a_record_that_was_damaged"),
    ],
    "7. Bounded threads and coroutines, by the memory's vCPUs": [
        (HANDLER, "test_tasks_of_a_batch_run_side_by_side_up_to_the_limit"),
        (HANDLER, "test_coroutines_of_a_batch_run_on_one_loop"),
        (HANDLER, "test_threads_follow_the_functions_memory"),
    ],
    "8. No heartbeat: the visibility timeout is checked where things are deployed": [
        ("unit/aws_lambda/test_mapping.py", "test_a_timeout_over_the_visibility_timeout_is_refused_and_a_near_one_told"),
        ("integration/test_doctor_aws.py", "test_a_function_that_does_not_fit_its_queue_and_tasks_is_told_why"),
    ],
    "9. Idempotency and fencing through the worker's own code": [
        ("unit/test_idempotency.py", "test_two_calls_with_the_same_key_do_the_work_once_and_both_find_the_outcome"),
        ("unit/test_idempotency.py", "test_the_claim_of_a_worker_that_died_is_taken_over_after_its_lease"),
        ("chaos/test_lambda_crash_points.py", "test_a_function_may_die_anywhere"),
    ],
    "10. One line of log and metrics per task; spans are flushed": [
        (HANDLER, "test_one_line_of_json_per_task_with_its_metrics"),
        (HANDLER, "test_spans_are_flushed_before_the_answer"),
        (ADVERSARY, "test_an_exporter_that_hangs_does_not_hold_up_the_answer"),
    ],
    "11. Never raises; while the results are away the message is reported": [
        (HANDLER, "test_when_the_store_is_away_the_message_is_reported"),
        (HANDLER, "test_an_unforeseen_error_gives_the_whole_batch_back"),
        (EVENTS, "test_nothing_is_raised_and_nothing_unread_is_deleted"),
    ],
    "12. Terraform's defaults": [
        ("integration/test_terraform_modules.py", "test_a_module_is_valid_and_its_tests_pass"),
    ],
    "13. Local: invoke, and a poller with the real mapping's rules": [
        ("integration/test_lambda_local.py", "test_invoke_a_task"),
        ("integration/test_lambda_local.py", "test_serve_drives_the_function_and_survives_its_crash"),
        ("unit/aws_lambda/test_mapping.py", "test_what_an_answer_means"),
    ],
}  # fmt: skip


def test_there_are_thirteen() -> None:
    assert [int(rule.partition(".")[0]) for rule in RULES] == list(range(1, 14))


@pytest.mark.parametrize("rule", RULES)
def test_each_is_held_by_tests_that_exist(rule: str) -> None:
    for file, name in RULES[rule]:
        text = (TESTS / file).read_text()
        assert re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE), f"{file} has no {name}"
