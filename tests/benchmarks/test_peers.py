"""The comparison with peers: its rows, its measures, its table, and that a peer's failure is kept."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from peers.environments import ENVIRONMENTS, make_environment
from peers.lane import embed, open_onnxruntime
from peers.lanes import Lane, extra_lanes, peer_lanes
from peers.metrics import closeness, nearest_agreement
from peers.ort_quantise import ATTENTION, FFN_OUT, matmuls
from peers.prepare import joined, read_sentences, split_texts
from peers.run_peers import PEERS, surroundings
from peers.stopwatch import RUNS, cpu_times
from peers.timing import Stopwatch, time_lanes
from peers.work import HIDDEN, Rows, Variant, finish, make_models, model_path, read_record

VARIANTS = [variant for _, _, _, rows in PEERS for variant in rows]


def words(text):
    return {"attention_mask": np.ones((1, len(text.split())), np.int64)}


def degrees(*angles):
    radians = np.deg2rad(np.array(angles, np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def variant(name, **other):
    row = {"peer": "p", "engine": "onnxruntime", "mode": "static", "tuned": False, "how": "h", "page": "page"}
    return Variant(name=name, **{**row, **other})


def test_calibration_and_eval_share_no_text() -> None:
    texts = [f"text {number}" for number in range(50)]
    first, second = split_texts(texts, (20, 30), seed=1)
    assert (len(first), len(second)) == (20, 30)
    assert sorted(first + second) == sorted(texts)
    assert split_texts(texts, (20, 30), seed=1) == (first, second)
    assert split_texts(texts, (20, 30), seed=2) != (first, second)


def test_a_text_that_stands_twice_could_leak_and_is_refused() -> None:
    with pytest.raises(ValueError, match="3 texts, 2 of them different"):
        split_texts(["a", "b", "a"], (1, 2), seed=0)
    with pytest.raises(ValueError, match="4 are wanted"):
        split_texts(["a", "b", "c"], (2, 2), seed=0)


def test_long_rows_are_runs_of_sentences_none_of_which_is_used_twice() -> None:
    assert joined(["a b", "c", "d e f", "g"], words, shortest=3) == ["a b c", "d e f"]


def test_sentences_of_the_package_stand_once_and_in_one_of_the_sets() -> None:
    sentences = read_sentences()
    assert 8_000 < len(sentences) == len(set(sentences))
    texts = joined(sentences[:1_000], words, shortest=40)
    first, second = split_texts(texts, (20, 60), seed=128)
    assert all(len(text.split()) >= 40 for text in texts)
    held_in, held_out = (" ".join(part) for part in (first, second))
    used = [sentence for sentence in sentences[:1_000] if sentence in held_in]
    assert len(used) >= 20
    assert not [sentence for sentence in used if len(sentence) > 40 and sentence in held_out]


def test_masked_mean_leaves_padding_out() -> None:
    hidden = np.zeros((1, 3, HIDDEN), np.float32)
    hidden[0, 0, 0], hidden[0, 1, 1], hidden[0, 2] = 3.0, 4.0, 1e6
    found = finish(hidden, np.array([[1, 1, 0]]))
    assert found.shape == (1, HIDDEN)
    assert found[0, :3].tolist() == pytest.approx([0.6, 0.8, 0.0])
    assert finish(hidden[:, 0] * 7, np.array([[1, 1, 0]]))[0, 0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        finish(np.zeros((1, 3), np.float32), np.array([[1, 1, 0]]))


def test_nearest_neighbour_is_judged_by_angle_and_never_the_row_itself() -> None:
    # Neighbours: 0 -> 10, 10 -> 0, 30 -> 10; then 0 -> 10, 10 -> 12, 12 -> 10. The second differs.
    assert nearest_agreement(degrees(0, 10, 12).astype(float), degrees(0, 10, 30).astype(float)) == pytest.approx(2 / 3)


def test_closeness_by_hand_in_blocks_and_over_all_rows() -> None:
    reference = degrees(0, 10, 30, 100, 140, 150)
    moved = degrees(0, 10, 12, 100, 140, 150) * np.float32(5)  # length does not count
    found = closeness(moved, reference, block=3)
    assert found.cosine_min == pytest.approx(np.cos(np.deg2rad(18)), abs=1e-6)
    assert found.cosine_mean == pytest.approx((5 + np.cos(np.deg2rad(18))) / 6, abs=1e-6)
    assert found.nearest_blocks == pytest.approx((2 / 3 + 1) / 2)
    assert found.nearest_all == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="blocks of 4"):
        closeness(moved, reference, block=4)
    with pytest.raises(ValueError, match="reference"):
        closeness(moved[:3], reference, block=3)


def test_a_block_has_easier_neighbours_than_all_rows() -> None:
    # Row 0's neighbour in its block stays; among all rows it changes from 4 to 1 degrees away to another.
    reference, moved = degrees(0, 20, 4, 80), degrees(0, 20, 40, 80)
    assert closeness(moved, reference, block=2).nearest_blocks == 1.0
    assert closeness(moved, reference, block=2).nearest_all < 1.0


def test_a_variant_that_fails_is_recorded_and_the_next_one_is_made(tmp_path: Path) -> None:
    def fails(work, sequence, out):
        out.write_bytes(b"half")
        raise KeyError("component")

    rows = {
        variant("bad"): fails,
        variant("silent"): lambda work, sequence, out: None,
        variant("good"): lambda work, sequence, out: out.write_bytes(b"x" * sequence),
    }
    make_models(rows, work=tmp_path, sequence=64, names=(), again=False)
    bad, silent, good = (read_record(tmp_path, 64, row) for row in rows)
    assert "KeyError: 'component'" in bad.error
    assert bad.size_bytes == 0
    assert "wrote no file" in silent.error
    assert (good.error, good.size_bytes) == ("", 64)
    lanes = peer_lanes(tmp_path, 64, [*rows, variant("never")])
    assert [bool(lane.error) for lane in lanes] == [True, True, False, True]
    assert not model_path(tmp_path, 64, variant("bad")).exists()


def test_what_is_there_is_made_again_only_when_asked(tmp_path: Path) -> None:
    made = []
    rows = {variant("one"): lambda work, sequence, out: (made.append(1), out.write_bytes(b"1"))}
    for again in (False, False, True):
        make_models(rows, work=tmp_path, sequence=64, names=(), again=again)
    make_models(rows, work=tmp_path, sequence=64, names=("two",), again=True)
    assert len(made) == 2


def test_every_peer_is_run_at_defaults_and_tuned_and_says_how() -> None:
    assert len({row.title for row in VARIANTS}) == len(VARIANTS)
    for peer in {row.peer for row in VARIANTS}:
        mine = [row for row in VARIANTS if row.peer == peer and row.mode != "float"]
        assert {row.tuned for row in mine} == {False, True}
        assert {"static", "dynamic"} <= {row.mode for row in mine}
    assert all(row.how and row.page for row in VARIANTS)


def test_every_requirement_is_pinned_and_every_environment_has_its_peer() -> None:
    assert all("==" in requirement for row in ENVIRONMENTS.values() for requirement in row.requirements)
    assert {name for _, name, _, _ in PEERS} - {""} == set(ENVIRONMENTS)


def test_a_complete_environment_is_left_alone(tmp_path: Path) -> None:
    row = ENVIRONMENTS["optimum"]
    folder = tmp_path / "venvs" / "optimum"
    folder.mkdir(parents=True)
    (folder / ".complete").write_text("\n".join(row.requirements) + "\n")
    assert make_environment(row, tmp_path) is False
    assert [path.name for path in folder.iterdir()] == [".complete"]


def test_lanes_of_ones_own_are_read_and_wrong_ones_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    row = {"name": "best", "engine": "onnxruntime", "model": str(model), "sequence": 64}
    listing = tmp_path / "lanes.json"
    listing.write_text(json.dumps([row, {**row, "sequence": 128}]))
    assert [(lane.title, lane.sequence) for lane in extra_lanes(listing)] == [("extra-best", 64), ("extra-best", 128)]
    assert [dict(lane.facts)["mode"] for lane in extra_lanes(listing)] == ["best", "best"]
    listing.write_text(json.dumps([{**row, "name": "own-onnx-static"}, {**row, "mode": "mixed"}]))
    assert [dict(lane.facts)["mode"] for lane in extra_lanes(listing)] == ["static", "mixed"]
    listing.write_text(json.dumps([row, row]))
    with pytest.raises(ValueError, match="twice"):
        extra_lanes(listing)
    listing.write_text(json.dumps([{**row, "model": str(tmp_path / "none.onnx")}]))
    with pytest.raises(ValueError, match="no file"):
        extra_lanes(listing)


@pytest.fixture
def lookup(tmp_path: Path) -> Path:
    """A model that looks ids up in a table and asks for token types, which it ignores."""
    table = np.zeros((4, HIDDEN), np.float32)
    table[1, 0], table[2, 1], table[3] = 3.0, 4.0, 9.0
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [1, 3])
        for name in ("attention_mask", "token_type_ids", "input_ids")
    ]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])]
    output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1, 3, HIDDEN])
    graph = helper.make_graph(nodes, "g", inputs, [output], [onnx.numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "lookup.onnx")
    return tmp_path / "lookup.onnx"


def test_a_lane_feeds_inputs_by_name_and_pools_outside_the_model(lookup: Path) -> None:
    rows = Rows(input_ids=np.array([[1, 2, 3], [2, 3, 3]]), attention_mask=np.array([[1, 1, 0], [1, 0, 0]]))
    call = open_onnxruntime(lookup)
    found = embed(call, rows)
    assert found[:, :2].tolist() == [pytest.approx([0.6, 0.8]), pytest.approx([0.0, 1.0])]


def test_a_block_measures_after_its_warm_up_and_walks_on_through_the_rows() -> None:
    rows = Rows(input_ids=np.array([[0], [1], [2]]), attention_mask=np.ones((3, 1), np.int64))
    seen = []
    took = cpu_times(lambda ids, mask: seen.append(int(ids[0, 0])), rows, runs=3, warm_up=2, start=1)
    assert (seen, len(took)) == ([1, 2, 0, 1, 2], 3)


def test_lanes_take_turns_and_a_lane_that_does_not_open_has_no_time() -> None:
    class Scripted:
        """Answers block n of lane p with the CPU time 10 p + n."""

        def __init__(self, failed: dict[int, str]) -> None:
            self.failed, self.asked = failed, []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            log.append("closed")

        def block(self, place: int) -> list[float]:
            log.append(f"{self.asked.count(place)}:{place}")
            self.asked.append(place)
            return [10.0 * place + self.asked.count(place), 99.0]

    log: list[str] = []
    lanes = [Lane(title=name, engine="e", sequence=64, model=Path(name)) for name in "abc"]
    found = time_lanes(lanes, 3, start=lambda engine, mine: Scripted({1: "broken"}))
    assert log == ["0:0", "0:2", "1:0", "1:2", "2:0", "2:2", "closed"]
    assert [lane.title for lane in found] == ["a", "c"]
    assert found[lanes[0]].cpu_ms_min == 1.0
    assert found[lanes[2]].cpu_ms_median == 61.0  # of 21, 22, 23, 99, 99, 99
    assert found[lanes[2]].runs == 6


def test_a_process_holds_several_models_open_and_says_which_it_could_not_open(lookup: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npz"
    Rows(input_ids=np.array([[1, 2, 3]]), attention_mask=np.array([[1, 1, 0]])).save(rows)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    command = [sys.executable, "-m", "peers.stopwatch", "--engine", "onnxruntime"]
    files = [(lookup, rows), (broken, rows), (lookup, rows)]
    with Stopwatch(command, files, environment=surroundings()) as watch:
        assert list(watch.failed) == [1]
        blocks = [watch.block(place) for place in (2, 0, 2)]
    assert [len(block) for block in blocks] == [RUNS] * 3
    with (
        pytest.raises(RuntimeError, match="ended with 0"),
        Stopwatch([sys.executable, "-c", ""], files, environment=surroundings()),
    ):
        pass


def test_what_a_peer_leaves_in_the_current_directory_is_gone(tmp_path: Path) -> None:
    def litters(work, sequence, out):
        Path("augmented_model.onnx").write_bytes(b"x")
        out.write_bytes(b"y")

    before = set(Path.cwd().iterdir())
    row = variant("litters")
    make_models({row: litters}, work=tmp_path, sequence=64, names=(), again=False)
    assert set(Path.cwd().iterdir()) == before
    assert read_record(tmp_path, 64, row).error == ""


def test_groups_of_matmuls_are_told_by_their_weights(tmp_path: Path) -> None:
    def weight(name, *shape):
        return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)

    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["a"], "ffn_in"),
        helper.make_node("MatMul", ["a", "tall"], ["b"], "ffn_out"),
        helper.make_node("MatMul", ["b", "b"], ["y"], "scores"),
        helper.make_node("MatMul", ["y", "square"], ["z"], "query"),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "z")]
    weights = [weight("wide", 2, 8), weight("tall", 8, 2), weight("square", 2, 2)]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], weights)
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert matmuls(tmp_path / "m.onnx") == {ATTENTION: ["scores"], FFN_OUT: ["ffn_out"]}
