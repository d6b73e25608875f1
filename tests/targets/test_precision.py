"""Products in full precision, in several threads at once."""

import threading

import torch

from kdcache.targets.precision import full_precision


def test_the_last_thread_that_leaves_puts_back_what_the_process_allows() -> None:
    """Two threads that overlap, and the first to come is the first to go: the second is still served."""
    before, first_is_out, second_is_in = torch.backends.mkldnn.matmul.fp32_precision, threading.Event(), []
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    entered = threading.Event()

    def second() -> None:
        with full_precision(torch.device("cpu")):
            entered.set()
            first_is_out.wait(5)
            second_is_in.append(torch.backends.mkldnn.matmul.fp32_precision)

    thread = threading.Thread(target=second)
    try:
        with full_precision(torch.device("cpu")):
            thread.start()
            assert entered.wait(5)
        first_is_out.set()
        thread.join()
        assert second_is_in == ["ieee"]
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
