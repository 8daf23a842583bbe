"""What would have gone wrong on the first GPU, found by reading and by compiling; each has a test that fails
on the code as it was. No test here needs a GPU, and most of them guard a whole kind of fault.

    breaks      what stops a run, or a machine that could have worked
    wrong       results or figures that are not right, without a word
    slow        what is right and late
"""

import re
from pathlib import Path

import pytest
from tests.guards import check_guards

TESTS = Path(__file__).parents[1]
BREAKS = {
    "what watches operations, as a tape of a model's step does, sees no launch": [
        "kernels/test_operators.py::test_a_dispatch_mode_sees_every_kernel",
        "kernels/test_operators.py::test_the_profiler_sees_them",
        "kernels/test_operators.py::test_a_compiler_traces_through_them_whole"],
    "one row of a benchmark cannot be made, without a network for instance, and the others never come": [
        "bench/test_gpu.py::test_a_part_that_fails_costs_nobody_else_a_row",
        "bench/test_kernels.py::test_a_kernel_that_fails_costs_nobody_else_a_row",
        "bench/test_gpu_report.py::test_a_part_that_raises_gives_the_rows_that_it_had"],
    "figures are kept when all are there, and a hang or Ctrl-C loses them": [
        "bench/test_kernels.py::test_what_was_measured_is_kept_if_somebody_presses_ctrl_c",
        "bench/test_gpu_report.py::test_the_file_is_whole_after_every_row",
        "bench/test_gpu_report.py::test_a_part_that_hangs_or_dies_ends_no_other"],
    "bandwidth is measured with 4 GB more than an engine has left": [
        "perf/test_hardware.py::test_a_gpu_that_an_engine_has_filled_is_measured"],
    "tests hand a compiled kernel tensors of the CPU": [
        "gpu/test_findings.py::test_who_asks_for_triton_says_where_its_tensors_are"],
    "no C compiler or no Python.h, and the first launch fails with a compiler's command": [
        "test_device.py::test_what_triton_needs_is_said_before_it_fails",
        "kernels/test_operators.py::test_a_launch_that_finds_no_compiler_says_so"],
    "a GPU without bfloat16 in its matrix units, or that this PyTorch has no code for, is taken": [
        "test_device.py::test_a_gpu_without_matrix_units_for_bfloat16_is_left_alone",
        "gpu/test_fake.py::test_a_gpu_that_is_too_old_is_not_taken"],
    "8 billion weights are made in float32 first, in twice the memory": [
        "bench/test_gpu.py::test_a_model_is_made_in_the_dtype_that_it_will_have"],
    "an engine of the turn before keeps the memory that the next one counts on": [
        "bench/test_throughput.py::test_a_turn_has_the_memory_to_itself"],
    "too old a driver is told to run nvidia-smi, which shows nothing wrong": [
        "test_device.py::test_why_there_is_no_gpu"],
    "more programs along an axis than a GPU has": [
        "kernels/test_operators.py::test_a_grid_that_no_gpu_has_is_refused"],
    "a profiler that may not look into the GPU ends the benchmark": [
        "bench/test_gpu.py::test_a_trace_without_kernels_is_a_row_that_says_so"],
}
WRONG = {
    "a perfect kernel would be at 1,133 % of the roofline: whole caches were counted as moved": [
        "puzzles/judge/test_gpu.py::test_no_kernel_moves_less_than_the_least"],
    "a thread reads the target's logit where another may have put its gradient": [
        "kernels/test_cross_entropy.py::test_no_thread_reads_what_another_one_writes"],
    "the 33rd engine records on the first one's stream, and frees its working memory": [
        "gpu/test_graph.py::test_no_two_graphs_that_live_are_recorded_on_one_stream"],
    "products in bfloat16 have never been computed": [
        "kernels/test_interpreted.py::test_dot_adds_in_float32",
        "kernels/test_bfloat16.py::test_a_kernel_rounds_as_often_as_it_says",
        "kernels/test_bfloat16.py::test_no_kernel_is_left_out"],
    "a kernel is started on the current GPU, wherever its tensors are": [
        "kernels/test_operators.py::test_a_launch_is_on_the_gpu_of_its_tensors",
        "test_device.py::test_a_gpu_that_is_not_the_current_one_is_refused"],
}
SLOW = {
    "how many tokens there are is compiled in: a second of compiling in mid-traffic": [
        "gpu/test_variants.py::test_how_many_tokens_there_are_is_not_compiled_in",
        "engine/test_on_a_fake_gpu.py::test_every_way_to_serve"],
    "a norm asks for its weight when the row has been added up": [
        "kernels/test_rmsnorm.py::test_the_weight_is_on_its_way_while_the_row_is_added_up"],
    "all block tables are made anew in every step": [
        "engine/test_graphs.py::test_a_table_is_sent_only_where_it_has_changed"],
    "a decode beside a prompt is read by one program, in the prompt's tiles": [
        "engine/test_on_a_fake_gpu.py::test_a_decode_beside_a_prompt_is_split",
        "kernels/test_paged_attention.py::test_decodes_that_stand_first_may_have_a_launch_of_their_own"],
    "the sum behind every feed-forward, and the writing of keys, are kernels of their own": [
        "bench/test_kernels_a_token.py::test_no_sum_and_no_cache_write_is_a_kernel_of_its_own"],
    "products of 262 rows, two of whose tiles of 128 are full": [
        "kernels/test_cross_entropy.py::test_chunk_rows"],
    "registers spill on chips that were never compiled for": [
        "gpu/test_compile_table.py::test_a_part_of_the_table_is_what_is_compiled_now",
        "gpu/test_compile_table.py::test_the_table_has_every_kernel_on_every_chip_and_all_fit",
        "engine/test_on_a_fake_gpu.py::test_what_serving_would_have_compiled_compiles_and_fits"],
}


@pytest.mark.parametrize("guards", [BREAKS, WRONG, SLOW], ids=["breaks", "wrong", "slow"])
def test_each_fault_has_its_test(guards: dict[str, list[str]]) -> None:
    check_guards(guards)


def test_who_asks_for_triton_says_where_its_tensors_are() -> None:
    """Kernels run on the GPU if there is one: tensors that a test makes on the CPU are no use to them."""
    asks = re.compile(r"(?<!importorskip\()\"triton\"")
    says = re.compile("kernel_checks|default_device|triton_interpreted")
    asking = []
    for room in ("kernels", "model", "engine", "perf", "gpu"):
        files = (TESTS / room).glob("*.py")
        asking += [path for path in files if asks.search(path.read_text(encoding="utf-8"))]
    asking.remove(TESTS / "kernels" / "test_lang.py")                      # it starts none
    silent = [path.name for path in asking if not says.search(path.read_text(encoding="utf-8"))]
    assert len(asking) > 15 and not silent
