"""Metrics of classification, against values worked out by hand and scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from basicsr.metrics import (
    accuracy,
    balanced_accuracy,
    better_is,
    calibration_error,
    is_of_a_set,
    is_of_classes,
    negative_log_likelihood,
)
from basicsr.models.classification_model import measure

LOGITS = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 2, 1], [1, 0, 5], [2, 1, 0]])
LABELS = torch.tensor([0, 2, 1, 2, 1])


@pytest.fixture
def many():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=generator)
    labels[labels == 4] = torch.where(torch.rand(int((labels == 4).sum()), generator=generator) < 0.7, 0, 4)
    logits = torch.randn(400, 5, generator=generator)
    logits[range(400), labels] += 1
    return logits, labels


def test_accuracy_by_hand():
    assert accuracy(LOGITS, LABELS).tolist() == [1, 0, 1, 1, 0]
    assert accuracy(LOGITS, LABELS, top_k=2).tolist() == [1, 1, 1, 1, 1]


def test_an_answer_that_is_no_answer_is_not_right_everywhere():
    assert accuracy(torch.zeros(3, 3), torch.tensor([0, 1, 2])).tolist() == [1, 0, 0]


def test_top_k_of_all_classes_is_refused():
    with pytest.raises(ValueError, match='top_k: 3 of 3 classes'):
        accuracy(LOGITS, LABELS, top_k=3)


def test_as_scikit_learn(many):
    logits, labels = many
    probabilities, named = logits.double().softmax(1), logits.argmax(1)
    assert accuracy(logits, labels).mean().item() == pytest.approx(sklearn.accuracy_score(labels, named))
    expected = sklearn.top_k_accuracy_score(labels, probabilities, k=3)
    assert accuracy(logits, labels, 3).mean().item() == pytest.approx(expected)
    expected = sklearn.balanced_accuracy_score(labels, named)
    assert balanced_accuracy(logits, labels).mean().item() == pytest.approx(expected)
    assert balanced_accuracy(logits, labels).mean() != pytest.approx(accuracy(logits, labels).mean().item())
    expected = sklearn.log_loss(labels, probabilities)
    assert negative_log_likelihood(logits, labels).mean().item() == pytest.approx(expected)


def test_balanced_accuracy_leaves_out_classes_that_do_not_occur():
    labels = torch.tensor([0, 0, 0, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 5).float()
    assert balanced_accuracy(logits, labels).mean().item() == pytest.approx((2 / 3 + 1) / 2)


def test_calibration_error_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong) and 0.6 (right): bins of 10 %, gaps |0.5 - 0.9| * 2/3 and |1 - 0.6| * 1/3.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    found = calibration_error(probabilities.log(), torch.tensor([0, 1, 0]), bins=10)
    assert found == pytest.approx(0.4 * 2 / 3 + 0.4 / 3)


def test_calibration_error_as_written_out(many):
    logits, labels = many
    confidence, named = (one.numpy() for one in logits.double().softmax(1).max(1))
    right, expected = named == labels.numpy(), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(logits, labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ('type', 'better', 'of_a_set'),
    [
        ('accuracy', 'higher', False),
        ('balanced_accuracy', 'higher', False),
        ('negative_log_likelihood', 'lower', False),
        ('calibration_error', 'lower', True),
    ],
)
def test_what_they_say_of_themselves(type, better, of_a_set):
    assert better_is({'type': type}) == better
    assert is_of_a_set({'type': type}) == of_a_set
    assert is_of_classes({'type': type})
    assert isinstance(measure({'type': type}, LOGITS, LABELS), float if of_a_set else list)


def test_of_pictures():
    assert not is_of_classes({'type': 'calculate_psnr'})
    with pytest.raises(ValueError, match='calculate_psnr measures pictures'):
        measure({'type': 'calculate_psnr', 'crop_border': 0}, LOGITS, LABELS)


def test_a_value_that_is_none_is_refused():
    with pytest.raises(ValueError, match='not finite'):
        measure({'type': 'negative_log_likelihood'}, torch.tensor([[math.inf, 0.0]]), torch.tensor([1]))
