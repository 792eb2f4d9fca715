"""A recipe that is right becomes dataclasses; one that is wrong gets every fault named with its place."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from edgekit.recipe import checks, spec
from edgekit.recipe.load import load_recipe, parse_recipe, recipe_digest
from edgekit.recipe.schema import RecipeModel, Section, TeacherModel, known_keys
from edgekit.recipe.spec import Recipe, SourceKind, Task
from edgekit.recipe.units import Points
from edgekit_runtime.errors import MissingError, UsageError

GOOD = """\
name: demo
version: 1.0.0
model:
  task: text-classification
  teacher: {folder: ./bert}
  student: {layers: [0, 2, 4], max_length: 32}
data:
  train: {csv: train.csv}
  eval_rows: 100
  text: sentence
  label: polarity
adapt:
  epochs: 2
prune:
  ffn: 96
"""
IMAGE = """\
name: demo
version: 1.0.0
model:
  task: image-classification
  teacher: {architecture: cnn, config: {widths: [8, 16]}}
data:
  train: {sklearn: digits}
  eval_rows: 100
  image: {height: 8, width: 8, scale: 0.0625}
"""


def parse(text):
    return parse_recipe(text, name="r.yaml", folder=Path("/somewhere"))


def fault(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    return str(caught.value)


def test_a_whole_network_goes_with_onnx_alone():
    recipe = parse(GOOD + "quantize: {whole_network: int16-residual}\nexport: {formats: [onnx]}")
    assert recipe.quantize.whole_network == "int16-residual"
    assert parse(GOOD + "quantize: {whole_network: off}").quantize.whole_network == "off"


def test_good_recipe_becomes_dataclasses():
    recipe = parse(GOOD)
    assert recipe.model.task is Task.TEXT_CLASSIFICATION
    assert recipe.model.teacher.kind is SourceKind.FOLDER
    assert recipe.model.teacher.location == "./bert"
    assert recipe.model.student.layers == (0, 2, 4)
    assert recipe.data.train.kind == "csv"
    assert recipe.data.eval is None
    assert recipe.folder == Path("/somewhere")
    assert recipe.budget.max_drop == Points(1.0)
    assert recipe.prune == spec.PruneSpec(ffn=96)
    assert recipe.targets == ("x86-64",)


def test_image_recipe_becomes_dataclasses():
    recipe = parse(IMAGE)
    assert recipe.model.teacher.config == {"widths": [8, 16]}
    assert recipe.data.image == spec.ImageSpec(height=8, width=8, scale=0.0625)


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "r.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("sub/r.yaml")).folder == tmp_path / "sub"


@pytest.mark.parametrize("source", ["folder: x", "hub: a/b", "package: p", "factory: 'm.n:f'", "architecture: cnn"])
def test_each_teacher_source_is_a_key(source):
    kind = source.partition(":")[0]
    recipe = parse(GOOD.replace("folder: ./bert", source))
    assert recipe.model.teacher.kind == kind


def test_each_source_kind_has_a_key():
    assert {kind.value for kind in SourceKind} <= set(TeacherModel.model_fields)


def test_points_need_a_unit_and_keep_it():
    assert parse(GOOD + "budget: {max_drop: 0.5 points}").budget.max_drop == Points(0.5)
    assert "r.yaml:16:10: budget.max_drop needs a unit; write for example '0.5 points'" in fault(
        GOOD + "budget: {max_drop: 0.5}"
    )
    assert "not a number of points" in fault(GOOD + "budget: {max_drop: 1 %}")


@pytest.mark.parametrize(
    ("yaml_text", "labels"),
    [
        ("{0: negative, 1: positive}", {"0": "negative", "1": "positive"}),
        ("{no: 'yes', off: on}", {"no": "yes", "off": "on"}),
        ("{007: bond, 2026-01-01: day}", {"007": "bond", "2026-01-01": "day"}),
        ("{1.10: a, true: b}", {"1.10": "a", "true": "b"}),
    ],
)
def test_labels_are_taken_as_they_are_written(yaml_text, labels):
    assert parse(GOOD.replace("label: polarity", f"label: polarity\n  labels: {yaml_text}")).data.labels == labels


def test_numbers_without_a_point_are_numbers():
    assert parse(GOOD.replace("epochs: 2", "learning_rate: 1e-4")).adapt.learning_rate == 1e-4
    assert parse(GOOD + "seed: 010\n").seed == 10


def test_gates_keep_their_units_and_travel_with_the_budget():
    recipe = parse(GOOD + "parity: {gates: {min_cosine: 0.99, max_changed: 2 %}}\nbudget: {max_drop: 0.5 points}")
    assert recipe.parity.gates == {"min_cosine": "0.99 cosine", "max_changed": "2.0 points"}
    assert recipe.carried_gates == {"max_drop": "0.5 points", "max_changed": "2.0 points", "min_cosine": "0.99 cosine"}
    assert parse(GOOD).carried_gates == {"max_drop": "1.0 points", "max_changed": "5.0 points"}
    assert recipe_digest(recipe) != recipe_digest(parse(GOOD + "budget: {max_drop: 0.5 points}"))


CASES = {
    "gate without a unit": (
        GOOD + "parity: {gates: {max_drop: 0.5}}",
        "r.yaml:16:18: parity.gates.max_drop needs a unit, not 0.5 alone; write for example",
    ),
    "gate in another unit": (GOOD + "parity: {gates: {min_sqnr: 25 points}}", "min_sqnr counts in dB, not in points"),
    "confused gate": (GOOD + "parity: {gates: {min_relative_accuracy: 0.99 %}}", "makes no sense"),
    "unknown gate": (GOOD + "parity: {gates: {max_flips: 1 points}}", "no gate 'max_flips'"),
    "unknown key": (
        GOOD.replace("epochs", "ephocs"),
        "r.yaml:13:3: unknown key 'ephocs' in adapt; did you mean 'epochs'?",
    ),
    "unknown key at the top": (GOOD + "prunes: {}", "r.yaml:16:1: unknown key 'prunes'; did you mean 'prune'?"),
    "unknown key of no likeness": (GOOD + "zzz: 1", "unknown key 'zzz'; known: name, version"),
    "key twice": (GOOD + "name: other", "r.yaml:16:1: key 'name' is given twice; first in line 1"),
    "key twice inside": (
        GOOD.replace("{csv: train.csv}", "{csv: a, csv: b}"),
        "r.yaml:8:19: key 'csv' is given twice; first in line 8",
    ),
    "missing key": (GOOD.replace("version: 1.0.0\n", ""), "the recipe lacks the key 'version'"),
    "missing key inside": (GOOD.replace("  task: text-classification\n", ""), "r.yaml:3:1: model lacks the key 'task'"),
    "empty value": (GOOD + "seed:", "r.yaml:16:1: seed has no value"),
    "text for a number": (GOOD.replace("epochs: 2", "epochs: many"), "adapt.epochs should be a number, not 'many'"),
    "bool for a number": (GOOD.replace("epochs: 2", "epochs: true"), "adapt.epochs should be a number, not True"),
    "number with a unit": (GOOD.replace("epochs: 2", "epochs: 2h"), "adapt.epochs should be a number, not '2h'"),
    "fraction for a whole number": (GOOD + "seed: 1.5", "seed should be a whole number, not 1.5"),
    "below 0": (GOOD.replace("epochs: 2", "epochs: -1"), "adapt.epochs should be greater than or equal to 0, not -1"),
    "infinite": (GOOD.replace("epochs: 2", "learning_rate: 1e999"), "adapt.learning_rate should be a finite number"),
    "ce_weight above 1": (GOOD + "distill: {ce_weight: 1.5}", "distill.ce_weight should be less than or equal to 1"),
    "wrong choice": (
        GOOD.replace("text-classification", "text-clasification"),
        "r.yaml:4:3: model.task should be 'text-classification' or 'image-classification', not 'text-clasification'",
    ),
    "nearest choice": (GOOD + "quantize: {embedding: int}", "not 'int'; did you mean 'int8'?"),
    "list for a section": (GOOD + "distill: [1]", "r.yaml:16:1: distill should be a section"),
    "section for a list": (GOOD + "targets: {a: b}", "targets should be a list"),
    "name": (GOOD.replace("name: demo", "name: My Model"), "r.yaml:1:1: name should be lower-case letters"),
    "name with a line end": (GOOD.replace("name: demo", 'name: "demo\\n"'), "name should be lower-case letters"),
    "version": (GOOD.replace("1.0.0", "1.0"), "r.yaml:2:1: version should be three numbers (1.0.0), not '1.0'"),
    "ffn multiple": (
        GOOD.replace("96", "100"),
        "prune.ffn must be a multiple of prune.multiple (8), not 100; nearest: 96",
    ),
    "hidden multiple": (GOOD.replace("max_length: 32", "hidden: 100"), "should be a multiple of 8, not 100"),
    "negative layer": (GOOD.replace("[0, 2, 4]", "[-1, 2]"), "r.yaml:6:22: model.student.layers[0] should be greater"),
    "falling layers": (GOOD.replace("[0, 2, 4]", "[0, 4, 2]"), "must increase from one layer to the next"),
    "layer twice": (GOOD.replace("[0, 2, 4]", "[0, 2, 2]"), "must increase from one layer to the next"),
    "no source": (GOOD.replace("{csv: train.csv}", "{}"), "r.yaml:8:3: data.train names no source; give one of: csv"),
    "two sources": (GOOD.replace("train.csv}", "x, npz: y}"), "r.yaml:8:19: data.train.npz names 2 sources (csv, npz)"),
    "two teachers": (GOOD.replace("./bert", "x, hub: a/b"), "model.teacher.hub names 2 sources (folder, hub)"),
    "split of a csv": (
        GOOD.replace("train.csv", "x, split: y"),
        "data.train.split has no meaning for a source of kind 'csv'",
    ),
    "revision of a folder": (GOOD.replace("./bert", "x, revision: y"), "has no meaning for a source of kind 'folder'"),
    "weights without config": (GOOD.replace("folder: ./bert", "weights: a.safetensors"), "needs 'config'"),
    "pickled weights": (GOOD.replace("folder: ./bert", "weights: a.bin"), "path of a .safetensors file"),
    "hub id": (GOOD.replace("folder: ./bert", "hub: https://x/y"), "id of the form owner/name"),
    "factory": (GOOD.replace("folder: ./bert", "factory: module.f"), "of the form module:function"),
    "sha256": (GOOD.replace("train.csv", "x, sha256: 12"), "data.train.sha256 should be 64 hexadecimal digits"),
    "no eval": (GOOD.replace("  eval_rows: 100\n", ""), "r.yaml:7:1: data needs 'eval' (a source) or 'eval_rows'"),
    "both evals": (
        GOOD.replace("eval_rows: 100", "eval_rows: 100\n  eval: {csv: e}"),
        "gives both 'eval' and 'eval_rows'",
    ),
    "no text column": (GOOD.replace("  text: sentence\n", ""), "r.yaml:7:1: data needs 'text'"),
    "no label column": (GOOD.replace("  label: polarity\n", ""), "data needs 'label'"),
    "same column": (GOOD.replace("polarity", "sentence"), "r.yaml:11:3: data.label names the same column as 'text'"),
    "one label": (GOOD.replace("polarity", "polarity\n  labels: {0: a}"), "data.labels should have at least 2"),
    "images for text": (GOOD.replace("csv: train.csv", "images: x"), "r.yaml:8:11: data.train.images holds no texts"),
    "csv for images": (IMAGE.replace("sklearn: digits", "csv: x"), "data.train.csv holds no images"),
    "image section for text": (
        GOOD.replace("  text:", "  image: {height: 1, width: 1}\n  text:"),
        "data.image has no meaning",
    ),
    "no image section": (
        IMAGE.replace("  image: {height: 8, width: 8, scale: 0.0625}\n", ""),
        "r.yaml:6:1: data needs 'image'",
    ),
    "layers for images": (IMAGE + "prune: {ffn: 8}", "r.yaml:10:9: prune.ffn has no meaning for the task"),
    "columns for images": (IMAGE.replace("  eval_rows", "  where: {a: b}\n  eval_rows"), "data.where has no meaning"),
    "mean per channel": (IMAGE.replace("scale: 0.0625", "mean: [0.1, 0.2]"), "needs one value per channel: 1, not 2"),
    "no mean for colour": (IMAGE.replace("scale: 0.0625", "channels: 3"), "needs 'mean' and 'std' with 3 values"),
    "two channels": (IMAGE.replace("scale: 0.0625", "channels: 2"), "data.image.channels should be 1 or 3, not 2"),
    "std of 0": (IMAGE.replace("scale: 0.0625", "std: [0.0]"), "data.image.std[0] should be greater than 0"),
    "untrained architecture": (IMAGE + "adapt: {epochs: 0}", "r.yaml:10:9: adapt.epochs must be above 0"),
    "unknown target": (GOOD + "targets: [rpi-5]", "r.yaml:16:11: targets[0] no target 'rpi-5'; did you mean 'rpi5'?"),
    "target twice": (GOOD + "targets: [rpi5, rpi5]", "targets names 'rpi5' twice"),
    "no target": (GOOD + "targets: []", "targets should have at least 1 entry"),
    "format twice": (GOOD + "export: {formats: [onnx, onnx]}", "export.formats names 'onnx' twice"),
    "whole network in TFLite": (GOOD + "quantize: {whole_network: int8}", "whole_network is written into ONNX alone"),
    "no recipe": ("[1, 2]", "r.yaml: a recipe is a mapping"),
    "empty": ("", "r.yaml: a recipe is a mapping"),
    "broken YAML": (GOOD + "seed: [1", "r.yaml:16:9: expected"),
    "tab": (GOOD + "\tseed: 1", "r.yaml:16:1: "),
    "control character": (GOOD + "licence: \x07", "r.yaml: "),
    "python object": (
        GOOD + "seed: !!python/object/apply:os.getcwd []",
        "r.yaml:16:7: could not determine a constructor",
    ),
    "alias": ("a: &x [1]\nb: *x", "r.yaml:2:4: aliases (*name) are not used"),
    "two documents": (GOOD + "---\na: b", "r.yaml:16:1: "),
    "deep": ("a: " + "[" * 5000, "too deeply nested"),
    "merge key": (GOOD + "adapts: {<<: {epochs: 1}}", "unknown key 'adapts'"),
    "list as a key": (GOOD + "? [a]\n: b", "r.yaml:16:3: a key must be a word"),
}


@pytest.mark.parametrize(("text", "words"), CASES.values(), ids=CASES.keys())
def test_fault_is_named_with_its_place(text, words):
    message = fault(text)
    assert words in message
    assert message.startswith("error[E01")
    assert message.count("r.yaml") == 1, "one fault, one line"


def test_python_tag_is_not_run(tmp_path):
    fault(GOOD + f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    assert not (tmp_path / "made").exists()


def test_several_faults_are_listed_together_in_order_of_lines():
    text = GOOD.replace("epochs: 2", "epochs: many").replace("name: demo", "name: A").replace("ffn: 96", "fnn: 96")
    lines = fault(f"seed: x\n{text}budget: {{max_drop: 1}}").splitlines()
    assert lines[0] == "error[E0106]: 5 faults in r.yaml"
    places = [line.strip().split(" ")[0] for line in lines[1:]]
    assert places == ["r.yaml:1:1:", "r.yaml:2:1:", "r.yaml:14:3:", "r.yaml:16:3:", "r.yaml:17:10:"]


def test_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(MissingError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "edgekit init" in caught.value.fix


def test_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path)


def test_other_encodings_are_refused_with_the_line(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(GOOD.encode() + "licence: Universit\xe9".encode("latin-1"))
    with pytest.raises(UsageError, match=r"r\.yaml:16: not UTF-8 \(byte \d+ is 0xe9\)"):
        load_recipe(file)


def test_byte_order_mark_is_no_fault(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_recipe(file).name == "demo"


def test_large_file_is_refused(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(GOOD + "#" * (1 << 20))
    with pytest.raises(UsageError, match="larger than"):
        load_recipe(file)


def test_digest_is_that_of_the_content_alone():
    base = recipe_digest(parse(GOOD))
    assert recipe_digest(parse_recipe(GOOD, name="other.yaml", folder=Path("/else"))) == base
    assert recipe_digest(parse("# a comment\n" + GOOD)) == base
    assert recipe_digest(parse(GOOD + "seed: 0\ndistill: {epochs: 2, temperature: 2}\n")) == base, (
        "defaults, written out"
    )
    assert recipe_digest(parse(GOOD + "seed: 1\n")) != base
    assert recipe_digest(parse(GOOD.replace("train.csv", "other.csv"))) != base


def test_every_key_of_the_dataclasses_is_a_key_of_the_schema():
    pairs = [
        (RecipeModel, Recipe, {"folder"}),
        (known_section("model", "student"), spec.StudentSpec, set()),
        (known_section("data"), spec.DataSpec, set()),
        (known_section("data", "image"), spec.ImageSpec, set()),
        (known_section("adapt"), spec.AdaptSpec, set()),
        (known_section("distill"), spec.DistillSpec, set()),
        (known_section("prune"), spec.PruneSpec, set()),
        (known_section("quantize"), spec.QuantizeSpec, set()),
        (known_section("export"), spec.ExportSpec, set()),
        (known_section("budget"), spec.BudgetSpec, set()),
        (known_section("parity"), spec.ParitySpec, set()),
        (TeacherModel, spec.TeacherSource, {"kind", "location"}),
    ]
    for model, data, without in pairs:
        wanted = {field.name for field in dataclasses.fields(data)} - without
        extra = {kind.value for kind in SourceKind} if data is spec.TeacherSource else set()
        assert set(model.model_fields) == wanted | extra, data


def known_section(*path):
    section = RecipeModel
    for part in path:
        section = section.model_fields[part].annotation
    assert issubclass(section, Section)
    assert known_keys(path) == section.model_fields
    return section


@pytest.mark.parametrize("path", [*checks.TEXT_ONLY, *checks.IMAGE_ONLY], ids=".".join)
def test_tables_of_the_checks_name_keys_that_exist(path):
    assert path[-1] in known_keys(path[:-1])


def test_broken_yaml_of_every_prefix_is_a_usage_error():
    for end in range(len(GOOD)):
        try:
            parse(GOOD[:end])
        except UsageError:
            continue
        except (yaml.YAMLError, RecursionError) as error:
            pytest.fail(f"prefix of {end} characters: {error!r}")
