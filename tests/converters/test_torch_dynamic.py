"""PyTorch's own dynamic int8: which layers it takes, and what a 7-bit grid measured at each run gives."""

import numpy as np
import pytest
import tiny_networks
import torch
from torch import nn

from edgekit.lanes.local import TORCH_DYNAMIC, TorchDynamicLane, torch_dynamic_lane
from edgekit.recipe.spec import Task
from edgekit_converters.quantize.torch_dynamic import quantize_torch_dynamic, serialised_bytes


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(200, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.gru = nn.GRU(32, 32, batch_first=True)
        self.conv = nn.Conv1d(32, 32, 3)
        self.head = nn.Linear(32, 4)

    def forward(self, ids):
        states = self.gru(self.lstm(self.words(ids))[0])[0]
        return self.head(self.conv(states.transpose(1, 2)).mean(2))


def test_linear_recurrent_and_embedding_layers_are_quantised_and_the_original_is_left_alone() -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    ids = torch.randint(0, 200, (5, 12))
    with torch.no_grad():
        before = model(ids)
        quantised = quantize_torch_dynamic(model)
        after, again = quantised(ids), model(ids)
    assert [type(part).__module__.startswith("torch.ao") for part in quantised.children()] == [True] * 3 + [False, True]
    assert torch.equal(before, again)
    assert 0 < (after - before).norm() / before.norm() < 0.05
    assert serialised_bytes(quantised) < 0.6 * serialised_bytes(model)


def test_a_linear_layer_measures_its_grid_with_seven_bits() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
    quantised = quantize_torch_dynamic(model)
    # The range -1 to 3 in half of 255 steps: 0.7 is 22.3 of them, which rounds to 22; of 255 it would be 44.6.
    step, x = 2 * 4 / 255, torch.tensor([[0.7, -1.0], [3.0, 0.0]])
    with torch.no_grad():
        found = quantised(x)[0, 0].item()
    assert found == pytest.approx(22 * step, abs=1e-5)


def test_the_lane_answers_as_the_student_does(tmp_path) -> None:
    student = tiny_networks.write_teacher(tmp_path / "text", task=Task.TEXT_CLASSIFICATION)
    lane = torch_dynamic_lane(student)
    assert isinstance(lane, TorchDynamicLane)
    assert lane.name == TORCH_DYNAMIC
    model = tiny_networks.text_classifier().eval()
    rows = tiny_networks.text_feeds(8, seed=2)
    threads = torch.get_num_threads()
    with lane.open() as engine, torch.no_grad():
        assert torch.get_num_threads() == 1
        for feeds in rows:
            exact = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).numpy()
            found = engine.run(feeds)["logits"]
            assert found.shape == exact.shape
            assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
    assert torch.get_num_threads() == threads
    with lane.open() as engine:
        quantised = engine.module
    assert lane.size_bytes() == serialised_bytes(quantised) < serialised_bytes(model)


def test_an_image_student_has_no_such_lane(tmp_path) -> None:
    student = tiny_networks.write_teacher(tmp_path / "image", task=Task.IMAGE_CLASSIFICATION)
    assert torch_dynamic_lane(student) is None
