"""Every fault that the plan of this program names, and the tests that show what becomes of it, as PATH::NAME."""

from __future__ import annotations

PROBES = {
    "refused, black-holed, half-open, dripping, 4xx, 429, 5xx, redirecting, TLS broken, no JSON, wrong JSON": (
        "contract/test_causes.py::test_a_peer_makes_its_cause",
        "world/test_faults.py::test_a_fault_is_named_in_time_and_slows_nobody",
    ),
    "all of them at once": ("world/test_faults.py::test_all_faults_at_once_slow_nobody_and_all_are_mended",),
    "an answer of a gigabyte": ("engines/test_http.py::test_a_gigabyte_is_cut_at_the_limit",),
    "SSH refused, denied, an unknown host key, a changed one": (
        "world/test_ssh_faults.py::test_it_says_so_and_what_is_reached_directly_goes_on",
        "contract/test_ssh.py::test_an_unknown_host_key_is_refused",
        "contract/test_ssh.py::test_a_changed_host_key_is_refused",
    ),
    "SSH dropped in mid-stream": (
        "world/test_ssh_faults.py::test_a_drop_in_mid_stream_is_said_and_the_stream_is_opened_anew",
    ),
    "sshd that opens no further session": (
        "contract/test_ssh.py::test_a_session_too_many_is_refused_and_the_others_go_on",
        "lab/test_faults.py::test_a_fault_of_the_node_or_the_way_to_it_is_said_and_nothing_is_lost",
    ),
    "an inventory with mistakes, garbage, without permission": (
        "cluster/test_files.py::test_mistakes",
        "cluster/test_files.py::test_unreadable_files",
    ),
    "an inventory that got broken": (
        "cli/test_console_pty.py::test_a_broken_inventory_opens_the_last_good_one_read_only",
    ),
    "the terminal closed, Ctrl+C, SIGTERM": (
        "cli/test_console_pty.py::test_every_end_leaves_nothing_behind",
        "lab/test_faults.py::test_what_happens_to_the_console_in_mid_queue_loses_nothing",
    ),
    "an exception of ours": ("tui/test_console.py::test_no_exception_ends_the_console",),
}

HEALTH = {
    "healthy and wedged": (
        "world/test_wedged.py::test_wedged_from_idleness_is_stalled_within_three_intervals_and_well_again",
    ),
    "metrics that are broken, NaN, of 100,000 lines": (
        "world/test_wedged.py::test_metrics_of_every_kind_are_never_fatal",
    ),
    "counters that go backwards or begin anew": (
        "cluster/test_work.py::test_what_stands_still",
        "world/test_strangers.py::test_counters_that_make_no_sense_are_no_fault_and_no_rate",
    ),
    "two engines on one port": (
        "world/test_strangers.py::test_two_engines_on_one_port_are_never_up_for_long_and_named",
    ),
    "an endpoint that changes its engine": (
        "world/test_strangers.py::test_an_endpoint_that_changes_its_engine_is_named_and_back_again",
    ),
    "a line gone dead without a word": (
        "world/test_strangers.py::test_a_line_that_goes_dead_without_a_word_is_named_within_one_time_limit",
    ),
    "a line that is slow and loses packets": (
        "world/test_closed.py::test_a_lost_packet_is_no_closed_port",
        "lab/test_faults.py::test_a_fault_of_the_node_or_the_way_to_it_is_said_and_nothing_is_lost",
    ),
    "a clock that jumps": (
        "cluster/test_health.py::test_a_clock_set_back_makes_nothing_stale",
        "lab/test_faults.py::test_a_wall_clock_that_jumps_changes_the_time_of_day_and_no_verdict",
    ),
    "a laptop that slept": ("cluster/test_health.py::test_after_a_sleep_everything_is_asked_at_once",),
    "a model that runs on the CPU, a container that lost its GPU": (
        "world/test_findings.py::test_one_look_finds_them",
        "world/test_findings.py::test_a_container_that_loses_its_gpu",
    ),
    "a history that is corrupt, of a killed console, on a full disk": (
        "history/test_history.py::test_a_corrupt_file_is_set_aside",
        "history/test_history.py::test_what_a_killed_console_recorded_is_there",
        "lab/test_faults.py::test_a_full_disk_costs_history_and_says_so",
    ),
    "an hour of flapping": (
        "alerts/test_news.py::test_an_hour_of_flapping_has_one_message_for_each_real_change_and_does_not_grow",
    ),
}

QUEUE = {
    "a container that never answers": (
        "lab/test_trouble.py::test_silent_for_ever_and_nothing_is_started_behind_it",
        "procedures/test_queue.py::test_nothing_is_started_behind_a_hang_and_it_is_named",
    ),
    "one that answers and then dies": (
        "lab/test_trouble.py::test_what_answers_and_then_dies",
        "procedures/test_queue.py::test_what_answers_and_then_dies_did_not_start",
    ),
    "one that flaps": (
        "lab/test_trouble.py::test_what_flaps",
        "procedures/test_trouble.py::test_a_container_that_flaps_behind_its_gate_is_named",
    ),
    "one removed or renamed in mid-queue": (
        "lab/test_trouble.py::test_what_goes_in_mid_queue",
        "procedures/test_queue.py::test_removed_or_renamed_meanwhile",
    ),
    "two with one port": (
        "lab/test_trouble.py::test_a_port_that_another_container_has",
        "procedures/test_trouble.py::test_two_with_one_port_are_warned_of_in_the_plan",
    ),
    "exited, out of memory, unhealthy, image, volume, GPU driver missing": (
        "procedures/test_trouble.py::test_named",
        "lab/test_trouble.py::test_out_of_memory",
        "lab/test_trouble.py::test_no_driver_for_gpus",
    ),
    "an order that names an unknown container": ("procedures/test_startup.py::test_mistakes",),
    "an empty order": ("procedures/test_startup.py::test_an_empty_order_with_nothing_to_do",),
    "the daemon gone, or restarted": (
        "procedures/test_queue.py::test_a_daemon_that_goes_away_and_comes_back_is_waited_for",
        "lab/test_queue_depth.py::test_a_docker_that_restarts_in_mid_queue",
    ),
    "SSH dropped in mid-start": ("lab/test_queue_depth.py::test_ssh_that_drops_in_mid_start_starts_nothing_twice",),
    "a disk full under the journal": (
        "procedures/test_journal.py::test_a_full_disk_halts_it_with_a_last_word",
        "lab/test_queue_depth.py::test_a_full_disk_under_the_journal_halts_it_and_nothing_else_is_started",
    ),
    "kill -9 at every edge of a step": (
        "procedures/test_queue.py::test_killed_at_any_line_and_resumed_at_once_nothing_starts_twice_and_never_two_initialise",
        "lab/test_queue_depth.py::test_killed_at_every_edge_nothing_starts_twice_and_never_two_initialise",
    ),
    "two consoles at one node": (
        "lab/test_queue_depth.py::test_one_on_the_node_and_one_elsewhere_see_each_other",
        "lab/test_lease.py::test_two_machines_and_who_stands_on_the_node_race_for_it",
    ),
    "a lease that nobody renews": (
        "procedures/test_lease.py::test_one_that_is_not_renewed_is_taken_over_only_if_a_person_says_so",
    ),
}

RECOVERY = {
    "containers killed, Docker killed, nobody logged on, asleep, Docker Desktop quit": (
        "lab/test_recovery.py::test_one_command_brings_it_back",
        "lab/test_console.py::test_r_and_a_yes_bring_it_back",
    ),
    "a wrong password": ("lab/test_deadnode.py::test_a_wrong_password",),
    "an expired secret": ("test_vaults.py::test_an_expired_token_is_told_from_one_that_may_not",),
    "a vault that is sealed, or out of reach": (
        "test_vaults.py::test_a_vault_that_cannot",
        "test_vaults.py::test_a_vault_out_of_reach",
    ),
    "a command that asks for a password": ("procedures/test_recovery.py::test_what_sudo_says",),
    "a rung that hangs": (
        "procedures/test_runner.py::test_the_time_limit_is_the_steps_own",
        "procedures/test_recovery.py::test_a_machine_that_does_not_wake_halts_the_ladder",
    ),
    "a node that dies again in mid-recovery": (
        "lab/test_deadnode.py::test_a_node_that_dies_while_it_is_held",
        "procedures/test_outage.py::test_a_docker_that_goes_away_again_and_again_is_named",
    ),
    "two recoveries at once": (
        "procedures/test_process.py::test_two_at_the_same_moment_one_wins",
        "procedures/test_two_machines.py::test_the_other_is_refused_told_by_whom_and_free_once_it_is_done",
    ),
    "the console killed at every edge of a step, and resumed": (
        "procedures/test_runner.py::test_killed_at_every_line_of_the_journal_it_is_resumed_and_does_nothing_twice",
    ),
    "a node without SSH or Docker": (
        "procedures/test_recovery.py::test_where_nothing_can_be_climbed",
        "reach/test_nodes.py::test_nodes_without_docker_or_without_a_way",
    ),
    "a driver that hangs, a GPU off the bus": (
        "verbs/test_doctor.py::test_a_driver_that_hangs",
        "procedures/test_recovery.py::test_what_no_rung_cures_is_said_with_what_does",
    ),
    "several nodes vanishing together": ("world/test_recovering.py::test_who_is_due",),
    "a secret that somebody looks for": ("lab/test_recovery.py::test_no_process_and_no_file_ever_holds_the_secret",),
}

MEMORY = {
    "a header that is truncated, or lies: 2^60 tensors, negative lengths, strings of 4 GB": (
        "memory/test_headers.py::test_a_file_that_lies_is_refused_with_a_sentence",
        "fuzz/test_headers.py::test_a_greedy_gguf",
    ),
    "a header without end": ("memory/test_headers.py::test_an_endless_header_is_fetched_no_further_than_the_limit",),
    "noise": ("memory/test_headers.py::test_noise_is_read_or_refused",),
}

ROUTER = {
    "a prompt that is empty, 1 MB, binary, only emoji, of mixed scripts": (
        "routing/test_classify.py::test_awkward_prompts_get_an_answer",
        "tui/test_router.py::test_a_prompt_of_a_megabyte_is_answered_or_refused_at_once",
    ),
    "a prompt that names a task": ("routing/test_classify.py::test_a_task_that_is_only_named_does_not_decide",),
    "an image that is none": (
        "engines/test_beside_chat.py::test_what_is_no_image",
        "tui/test_router.py::test_an_image_is_looked_at_before_it_goes",
    ),
    "an engine that streams garbage, breaks off, or sends an error inside a 200": (
        "engines/test_chat.py::test_answers_that_end_badly",
    ),
    "an answer without end": ("engines/test_chat.py::test_an_answer_without_end_is_stopped",),
    "two consoles that ask at once": ("tui/test_router.py::test_two_consoles_at_once",),
    "an engine killed in mid-stream": (
        "lab/test_routing.py::test_a_console_whose_engine_is_killed_offers_the_next",
        "world/test_asking.py::test_what_may_have_reached_an_engine_is_never_sent_again",
    ),
    "nobody who can serve": ("routing/test_choose.py::test_nobody_says_why_and_what_else",),
}

DEPLOYMENT = {
    "a disk full in mid-copy": (
        "deploy/test_copying.py::test_a_disk_that_is_full_is_told_at_once",
        "lab/test_deploy.py::test_a_disk_that_fills_up_in_mid_copy",
    ),
    "a link cut in mid-copy": (
        "deploy/test_copying.py::test_a_line_that_is_cut_is_gone_on_with_where_it_was",
        "lab/test_deploy.py::test_a_link_that_is_cut_in_mid_copy_is_gone_on_with",
    ),
    "a wrong checksum": (
        "deploy/test_copying.py::test_a_wrong_checksum_leaves_nothing",
        "lab/test_deploy.py::test_a_wrong_checksum",
    ),
    "a volume in use": ("lab/test_deploy.py::test_a_volume_that_is_in_use_by_then_is_left_alone_and_said_so",),
    "a name or a port that is taken": (
        "deploy/test_deploying.py::test_a_port_that_is_taken_is_named_with_its_holder",
        "lab/test_deploy.py::test_names_and_ports_that_are_taken",
    ),
    "an image that cannot be had": ("lab/test_deploy.py::test_an_image_that_cannot_be_had",),
    "a spec with unknown keys": ("cluster/test_deploying.py::test_a_mistake_is_told_in_a_line",),
    "a YAML that is none": ("gateway/test_lint.py::test_a_yaml_that_is_none_is_told_with_its_line",),
    "a gateway that does not come back": (
        "procedures/test_gateway.py::test_a_gateway_that_does_not_come_back_with_either_says_so",
        "lab/test_push.py::test_a_file_with_which_it_does_not_come_back_is_taken_back",
    ),
    "a failure at each step": (
        "deploy/test_deploying.py::test_a_failure_at_each_step_is_taken_back",
        "lab/test_deploy.py::test_a_failure_at_each_step_is_taken_back_byte_for_byte",
    ),
}

KUBERNETES = {
    "a kubeconfig that is missing, broken, of a wrong context, with a plugin that is not there": (
        "kubernetes/test_access.py::test_what_is_wrong_is_named",
        "kubernetes/test_access.py::test_missing_and_broken_files_are_named",
    ),
    "an expired certificate": ("kubernetes/test_access.py::test_an_expired_client_certificate_is_told_with_its_date",),
    "an API out of reach, or that answers a web page": (
        "kubernetes/test_api.py::test_a_closed_port_and_an_unknown_name",
        "kubernetes/test_api.py::test_a_web_page_is_no_api",
    ),
    "a watch that is dropped, or too old": (
        "kubernetes/test_kept.py::test_a_dropped_watch_goes_on_where_it_was",
        "kubernetes/test_kept.py::test_where_its_version_is_gone_the_list_is_read_again",
    ),
    "a workload deleted in mid-queue": ("kubernetes/test_queue.py::test_one_that_is_deleted_in_mid_queue_is_named",),
    "a conflict on update": ("kubernetes/test_queue.py::test_a_conflict_is_retried_from_a_fresh_read",),
    "a quota, an admission rule": (
        "kubernetes/test_queue.py::test_a_quota_is_named_before_anything_is_changed",
        "kubernetes/test_queue.py::test_an_admission_rule_is_named_before_anything_is_changed",
    ),
    "missing rights": (
        "kubernetes/test_api.py::test_a_missing_right_is_told_as_verb_and_resource",
        "kubernetes/test_seen.py::test_what_a_viewer_may_not_is_told",
    ),
    "5,000 pods": ("kubernetes/test_seen.py::test_five_thousand_pods",),
    "objects of any shape": ("fuzz/test_kubernetes.py::test_any_value_may_be_odd",),
}

THE_CONSOLE = {
    "partition, half-open, slow and lossy, dockerd restarted, few sessions, in a real terminal": (
        "lab/test_faults.py::test_a_fault_of_the_node_or_the_way_to_it_is_said_and_nothing_is_lost",
    ),
    "resized without end": (
        "tui/test_driver.py::test_a_storm_of_resizes",
        "lab/test_faults.py::test_what_happens_to_the_console_in_mid_queue_loses_nothing",
    ),
    "SIGHUP, SIGTERM, SIGKILL, SIGSTOP and SIGCONT": (
        "lab/test_faults.py::test_what_happens_to_the_console_in_mid_queue_loses_nothing",
        "procedures/test_two_machines.py::test_taken_over_while_it_slept_it_changes_nothing_more",
    ),
    "keys at random": ("fuzz/test_keys.py::test_no_key_ends_the_console",),
    "a day of polling": ("soak/test_day.py::test_a_day_of_polling_leaves_memory_flat_and_nothing_behind",),
}

NAMED = PROBES | HEALTH | QUEUE | RECOVERY | MEMORY | ROUTER | DEPLOYMENT | KUBERNETES | THE_CONSOLE
