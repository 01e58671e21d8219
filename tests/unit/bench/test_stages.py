"""Rates of the stages in `bench`, and the limit that follows from them."""

import pytest

from bench.stages import Measured, StageRates, StageTime, add_up, combine, take_medians

RATES = {"read": 1000.0, "hash": 1000.0, "decode": 300.0, "prepare": 600.0, "infer": 200.0, "commit": 50.0}


def measured(scans=10, *, decode_s=1.0, infer_s=None, rejected=0, device="cpu"):
    stages = {"read": StageTime(scans, 0.1), "hash": StageTime(scans, 0.2), "decode": StageTime(scans, decode_s),
              "prepare": StageTime(scans, 0.5)}  # fmt: skip
    infer = {size: StageTime(scans, seconds) for size, seconds in (infer_s or {8: 1.0, 32: 2.0}).items()}
    return Measured(stages, infer, rejected, device)


def test_what_is_done_one_after_the_other_takes_the_sum_of_the_times():
    assert combine([300.0, 600.0, 200.0]) == pytest.approx(100.0)
    assert combine([5.0]) == 5.0


@pytest.mark.parametrize("rates", [[], [100.0, 0.0]])
def test_what_cannot_be_done_at_all_has_no_rate(rates):
    assert combine(rates) == 0.0


def test_the_limit_is_made_of_decoding_preparing_and_inference_alone():
    rates = StageRates(RATES, processes=2, batch_size=8)
    assert rates.limit == pytest.approx(100.0)
    assert rates.reuse_limit == pytest.approx(500.0)


def test_inference_on_a_device_of_its_own_goes_on_beside_decoding():
    assert StageRates(RATES, 2, 32, overlaps=True).limit == pytest.approx(200.0)
    assert StageRates({**RATES, "infer": 150.0}, 2, 32, overlaps=True).limit == pytest.approx(150.0)


def test_processes_add_up_and_the_fastest_batch_counts():
    rates = add_up([measured(decode_s=1.0), measured(decode_s=0.5, rejected=2)], batch_size=32)
    assert rates.rates["decode"] == pytest.approx(10 + 20)
    assert (rates.rates["infer"], rates.batch_size) == (pytest.approx(20.0), 8)
    assert (rates.processes, rates.rejected, rates.overlaps) == (2, 2, False)


def test_a_gpu_is_asked_for_whole_batches_alone():
    rates = add_up([measured(device="cuda")], batch_size=32)
    assert (rates.rates["infer"], rates.batch_size, rates.overlaps) == (pytest.approx(5.0), 32, True)


def test_nothing_measured_is_no_rate():
    assert StageTime(0, 0.0).rate == 0.0


def test_medians_are_taken_stage_by_stage():
    rounds = [StageRates({**RATES, "decode": decode}, 2, 8) for decode in (100.0, 900.0, 300.0)]
    assert take_medians(rounds) == StageRates(RATES, 2, 8)
