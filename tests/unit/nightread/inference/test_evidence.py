"""Evidence in one scan."""

import numpy as np
import pytest

from nightread.inference.evidence import Evidence, EvidenceFinder
from nightread.model.bundle import SHIPPED_DIR, load_bundle


def find(reference):
    bundle = load_bundle(SHIPPED_DIR / reference)
    return bundle, EvidenceFinder(bundle, threads=1)


def test_the_activation_map_of_a_network_is_its_evidence():
    bundle, finder = find("pneumonia-lite0/5")
    found = [finder.find(tensor) for tensor in bundle.parity_inputs]
    assert not found[0].is_occlusion
    assert found[0].values.shape == (4, 4, 1)
    means = [float(evidence.values.mean()) for evidence in found]
    assert np.array_equal(np.argsort(means), np.argsort(bundle.parity_scores[:, 0]))  # the score rises with the mean


def test_covered_parts_are_the_evidence_of_a_network_without_a_map():
    bundle, finder = find("pneumonia-cnn75/1")
    tensor = bundle.parity_inputs[int(np.argmin(np.abs(bundle.parity_scores[:, 0] - 0.5)))]
    evidence = finder.find(tensor)
    assert evidence.is_occlusion
    assert evidence.values.shape == (6, 6, 1)
    assert 0 < evidence.strongest(0) <= 1


@pytest.mark.parametrize(("sign", "color"), [(1, (255, 138, 0)), (-1, (60, 150, 255))])
def test_the_layer_is_opaque_where_the_evidence_is_strongest(sign, color):
    values = np.zeros((4, 4, 2), np.float32)
    values[:2, :2, 1] = sign * 3.0
    layer = Evidence(values, is_occlusion=False).draw(1, (80, 40))
    assert layer.shape == (40, 80, 4)
    assert tuple(layer[2, 2]) == (*color, 255)
    assert layer[-1, -1, 3] == 0


def test_no_evidence_is_clear():
    layer = Evidence(np.zeros((4, 4, 1), np.float32), is_occlusion=True).draw(0, (8, 8))
    assert not layer[:, :, 3].any()
