import pytest
import torch

import ldt

PARTITION = ldt.Partition(['s0', 's1', 's2', 's3'], ['u0', 'u1'])


def test_dynamic_decay_grows_with_the_place():
    decay = ldt.dynamic_decay(PARTITION)
    assert decay == pytest.approx(
        {'s0': 0.99, 's1': 0.9925, 's2': 0.995, 's3': 0.9975, 'u0': 0.999, 'u1': 0.9995}, abs=1e-12
    )
    assert max(decay.values()) < 1


def test_fixed_decay_is_one_number():
    assert ldt.fixed_decay(PARTITION, 0.9) == dict.fromkeys(['s0', 's1', 's2', 's3', 'u0', 'u1'], 0.9)


@pytest.mark.parametrize(('base', 'span'), [(1.0, 0.0), (-0.1, 0.1), (0.99, 0.02), (0.99, -0.01)])
def test_decay_out_of_range_is_an_error(base, span):
    with pytest.raises(ValueError, match='unstable layers'):
        ldt.dynamic_decay(PARTITION, unstable=(base, span))


def test_fixed_decay_of_one_is_an_error():
    with pytest.raises(ValueError, match='frozen for ever'):
        ldt.fixed_decay(PARTITION, 1.0)


def test_decay_from_time_constants():
    base, span = ldt.decay_from_time_constants(50, 400, exchange_every=10)
    assert (base, base + span) == pytest.approx((1 - 10 / 50, 1 - 10 / 400))
    constants = ldt.time_constants(ldt.dynamic_decay(PARTITION, (base, span)), 10)
    assert constants['s0'] == pytest.approx(50) and 50 < constants['s1'] < constants['s3'] < 400
    assert ldt.decay_from_time_constants(10, 10, 10) == (0, 0)
    for wrong in ((9, 400), (400, 50), (50, float('inf')), (float('nan'), 50)):
        with pytest.raises(ValueError, match='time constants must be'):
            ldt.decay_from_time_constants(*wrong, 10)


def test_a_layer_of_several_tensors_has_one_place():
    layers = {'a': ['a.w', 'a.b'], 'b': ['b.w'], 'c': ['c.w', 'c.b'], 'd': ['d.w']}
    partition = ldt.Partition(['b.w', 'a.w', 'a.b'], ['c.w', 'c.b', 'd.w'], layers=layers)
    decay = ldt.dynamic_decay(partition, (0.5, 0.4), (0.8, 0.1))
    expected = {'b.w': 0.5, 'a.w': 0.7, 'a.b': 0.7, 'c.w': 0.8, 'c.b': 0.8, 'd.w': 0.85}
    assert decay == pytest.approx(expected)
    stable, unstable = ldt.time_constant_stats(partition, decay, 1, 4)
    assert (stable.layers, unstable.layers, stable.slow, unstable.slow) == (2, 2, 0, 2)


def test_time_constants_of_the_groups():
    decay = ldt.dynamic_decay(PARTITION)
    assert ldt.time_constants(decay, 10)['s0'] == pytest.approx(1000)
    assert ldt.time_constants(decay, 10)['u1'] == pytest.approx(20000)
    stable, unstable = ldt.time_constant_stats(PARTITION, decay, exchange_every=10, total_iter=2500)
    assert (stable.group, stable.layers, stable.slow, stable.mostly_slow) == ('stable', 4, 1, False)
    assert (unstable.group, unstable.slow, unstable.mostly_slow) == ('unstable', 2, True)
    assert stable.fastest == pytest.approx(1000)
    assert stable.median == pytest.approx((1e4 / 7.5 + 2000) / 2)
    assert stable.slowest == pytest.approx(4000)


def test_former_names_still_work():
    from ldt import layers, restore

    assert (ldt.paces, ldt.Pace) == (ldt.time_constant_stats, ldt.TimeConstantStats)
    assert ldt.decay_of is ldt.decay_from_time_constants
    assert layers.listing is layers.format_names
    assert restore.gradients_restored is restore.preserve_gradients
    assert restore.modes_and_buffers_restored is restore.preserve_modes_and_buffers


def test_moving_average_follows_in_place():
    averages, trained = [torch.zeros(3), torch.ones(2, 2)], [torch.ones(3), torch.full((2, 2), 3.0)]
    ldt.MovingAverage(averages, trained, [0.75, 0.5]).step()
    assert torch.equal(averages[0], torch.full((3,), 0.25))
    assert torch.equal(averages[1], torch.full((2, 2), 2.0))
    assert torch.equal(trained[0], torch.ones(3))


def test_low_precision_average_moves():
    average, trained = torch.ones(4, dtype=torch.bfloat16), torch.full((4,), 2.0, dtype=torch.bfloat16)
    follower = ldt.MovingAverage([average], [trained], [0.999])
    for _ in range(1000):
        follower.step()
    assert average.dtype is torch.bfloat16
    assert average[0].item() == pytest.approx(2 - 0.999**1000, rel=4e-3)
    assert follower.precise[0][0].item() == pytest.approx(2 - 0.999**1000, rel=1e-4)
